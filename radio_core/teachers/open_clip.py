"""open_clip models as teachers: OpenAI CLIP, OpenCLIP, MetaCLIP, DFN, SigLIP and toy-clip."""

import json
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from radio_core.extras import require
from radio_core.registry import UnknownName
from radio_core.teachers.base import Teacher
from radio_core.teachers.files import cannot_fetch, misfit_of_torch
from radio_core.teachers.licences import licence_of, stated_licence
from radio_core.teachers.timm_models import takes_any_size
from radio_core.vision import CentreCrop, ModelSpec, Output

Tokenizer = Callable[[Sequence[str]], Tensor]

VOCABULARY_FILE = "vocabulary.json"
_LOCAL, _HUB = "local-dir:", "hf-hub:"
_WHOLE = (_LOCAL, _HUB)  # names that say by themselves where the weights are
_WORD = re.compile(r"[a-z0-9]+")


class OpenClipTeacher(Teacher):
    """Summary: the projected image embedding (not normalised). Features: normalised last tokens.

    Towers of timm that take images of any size are flexible; open_clip's own have a fixed position
    grid, which `load` can have resized.

    Args:
        name: name of the teacher.
        model: an open_clip model with both towers.
        tokenizer: texts → token ids [T, L] for its text tower.
        licence: licence of the weights.
    """

    def __init__(self, name: str, model: Any, tokenizer: Tokenizer, licence: str) -> None:
        visual = model.visual
        size = visual.image_size
        size = int(size if isinstance(size, int) else size[0])
        probe = torch.zeros(1, 3, size, size, device=next(model.parameters()).device)
        summary, features = _image_features(model.eval(), probe)
        if features.ndim != 4:
            raise ValueError(
                f"teacher {name}: its image tower gives features of shape "
                f"{list(features.shape)} for {size} pixels, which are no map of the image"
            )
        patch_size = size // features.shape[-1]
        if size % patch_size:  # 384 pixels in patches of 14: the last 6 are not looked at
            size -= size % patch_size
            if hasattr(visual, "set_input_size"):
                visual.set_input_size(size)
        # Towers of timm may take any size, open_clip's own do not.
        layers: Any = timm.layers
        trunk = getattr(visual, "trunk", None)
        flexible = trunk is not None and takes_any_size(trunk)
        if flexible and any(isinstance(m, layers.AttentionPool2d) for m in visual.head):
            flexible = False
        clip = require("open_clip", extra="clip")
        self._preprocess = getattr(visual, "preprocess_cfg", {})
        super().__init__(
            ModelSpec(
                name=name,
                input_size=size,
                mean=tuple(self._preprocess.get("mean", clip.OPENAI_DATASET_MEAN)),
                std=tuple(self._preprocess.get("std", clip.OPENAI_DATASET_STD)),
                patch_size=patch_size,
                summary_dim=summary.shape[-1],
                feature_dim=features.shape[1],
                licence=licence,
                flexible=flexible,
                text=True,
            )
        )
        self.model = model
        self.tokenizer = tokenizer
        self.freeze()

    @property
    def crop(self) -> CentreCrop:
        """open_clip's evaluation transform."""
        mode, size = self._preprocess.get("resize_mode", "shortest"), self.spec.input_size
        if mode not in ("shortest", "squash"):
            raise ValueError(
                f"open_clip model {self.spec.name!r} resizes images by {mode!r}; known: shortest, "
                "squash"
            )
        return CentreCrop(
            size=size,
            resize=size,
            squash=mode == "squash",
            interpolation=self._preprocess.get("interpolation", "bicubic"),
        )

    def extract(self, images: Tensor) -> Output:
        """Summary [B, D] in the space shared with texts, features [B, F, h, w]."""
        return Output(*_image_features(self.model, images))

    def image_text(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """The summary, which is in the space of the texts: [B, D] float32."""
        summary = self(images, size).summary
        assert isinstance(summary, Tensor)
        return summary

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str], normalize: bool = False) -> Tensor:
        """Text embeddings [T, D] float32, of unit length when `normalize`."""
        embeddings: Tensor = self.model.encode_text(self.tokenizer(list(texts)).to(self.device))
        return F.normalize(embeddings, dim=-1) if normalize else embeddings


def load(
    source: str, rest: str, input_size: int | None = None, licence: str = ""
) -> OpenClipTeacher:
    """Load through open_clip's factory."""
    model, pretrained = split_model(rest)
    try:
        network, tokenizer = create_open_clip(model, pretrained, input_size)
    except (ImportError, UnknownName):
        raise
    except Exception as error:  # open_clip and its downloads raise nearly everything
        raise _cannot_load(source, model, pretrained, error) from error
    folder = Path(model.removeprefix(_LOCAL))
    stated = stated_licence(folder) if model.startswith(_LOCAL) else None
    return OpenClipTeacher(source, network, tokenizer, licence or licence_of(source, stated).name)


def split_model(source: str) -> tuple[str, str]:
    """(model, pretrained) of "MODEL/PRETRAINED"; "hf-hub:" and "local-dir:" names stay whole."""
    if source.startswith(_WHOLE):
        return source, ""
    model, _, pretrained = source.partition("/")
    return model, pretrained


def create_open_clip(
    model: str, pretrained: str = "", input_size: int | None = None
) -> tuple[Any, Tokenizer]:
    """A network with both towers, and its tokenizer, through open_clip's factory.

    open_clip reads weight files with `weights_only=True` and loads them strictly.

    Args:
        model: architecture ("ViT-H-14-378-quickgelu"), "hf-hub:org/repo" or "local-dir:PATH".
        pretrained: tag or checkpoint file of an architecture ("dfn5b").
        input_size: side in pixels of its images, to which open_clip resizes the position grid;
            None for the model's own.
    """
    clip = require("open_clip", extra="clip")
    if not model.startswith(_WHOLE):  # refuse what it would not find, and weights left to chance
        if model not in clip.list_models():
            known = ", ".join(clip.list_models())
            raise UnknownName(f"unknown open_clip model {model!r}; known: {known}")
        tags = clip.list_pretrained_tags_by_model(model)
        if pretrained not in tags and not Path(pretrained).is_file():
            raise UnknownName(
                f"open_clip model {model!r} has no weights {pretrained!r}; name one of "
                f"{', '.join(tags) or 'its checkpoint files'}, as open_clip:{model}/WEIGHTS"
            )
    network = clip.create_model(
        model,
        pretrained=pretrained or None,
        require_pretrained=True,
        force_image_size=input_size,
        weights_only=True,
    )
    folder = Path(model.removeprefix(_LOCAL))
    if (folder / VOCABULARY_FILE).is_file():
        return network, WordTokenizer.load(folder)
    return network, clip.get_tokenizer(model)


def _cannot_load(teacher: str, model: str, pretrained: str, error: Exception) -> Exception:
    """The error with what to do about it."""
    clip = require("open_clip", extra="clip")
    tag = {} if model.startswith(_WHOLE) else clip.get_pretrained_cfg(model, pretrained)
    file = model.removeprefix(_LOCAL) if model.startswith(_LOCAL) else pretrained or model
    if (wrong := misfit_of_torch(teacher, file, error)) is not None:
        return wrong
    if model.startswith(_HUB):
        files, instead = "open_clip_config.json and open_clip_model.safetensors", "local-dir:FOLDER"
        place = model.removeprefix(_HUB)
    else:
        files, instead = "the weights", f"{model}/FILE"
        place = (tag.get("hf_hub") or tag.get("url") or "").rstrip("/")
    if place and not isinstance(error, (SafetensorError, pickle.UnpicklingError)):
        return cannot_fetch(teacher, place, files, f"open_clip:{instead}", error)
    return ValueError(f"teacher {teacher}: cannot read the weights in {file}: {error}")


@torch.no_grad()
def _image_features(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Embedding [B, D] and last feature map [B, F, h, w] of normalised images."""
    # Where the tokens are pooled by attention (CoCa), the last norm is that of the pooled ones.
    norm = getattr(model.visual, "attn_pool", None) is None
    output = model.forward_intermediates(
        image=images, image_indices=1, normalize=False, normalize_intermediates=norm
    )
    return output["image_features"], output["image_intermediates"][-1]


class WordTokenizer:
    """Lower-cased words → ids, for text towers with a tiny vocabulary; called like open_clip's.

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
