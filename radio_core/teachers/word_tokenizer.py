"""A tokenizer of whole words for text towers with a tiny vocabulary."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

VOCABULARY_FILE = "vocabulary.json"
_WORD = re.compile(r"[a-z0-9]+")


class WordTokenizer:
    """Lower-cased words → ids; called like open_clip's tokenizers.

    Id 0 pads, 1 stands for unknown words, 2 starts a text; the end token has the highest id
    because CLIP's text tower pools at the argmax.
    """

    def __init__(self, words: Sequence[str], context_length: int) -> None:
        self.words = tuple(words)
        self.context_length = context_length
        self._ids = {word: 3 + number for number, word in enumerate(self.words)}

    @property
    def vocab_size(self) -> int:
        """Number of ids, the four special ones included."""
        return len(self.words) + 4

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """Ids [T, context_length] int64 of T texts; longer texts are cut before the end token."""
        length = context_length or self.context_length
        texts = [texts] if isinstance(texts, str) else texts
        ids = torch.zeros(len(texts), length, dtype=torch.long)
        for row, text in enumerate(texts):
            words = [self._ids.get(word, 1) for word in _WORD.findall(text.lower())]
            tokens = [2, *words[: length - 2], self.vocab_size - 1]
            ids[row, : len(tokens)] = torch.tensor(tokens)
        return ids

    def save(self, folder: Path) -> None:
        """Write the vocabulary beside the weights of its model."""
        content = {"context_length": self.context_length, "words": self.words}
        (folder / VOCABULARY_FILE).write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "WordTokenizer":
        """Read what `save` wrote."""
        content = json.loads((folder / VOCABULARY_FILE).read_text())
        return cls(content["words"], content["context_length"])
