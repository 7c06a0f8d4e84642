"""The image token, in a tokenizer and in the weights of a language model."""

from typing import Any

import torch
from torch import Tensor

IMAGE_TOKEN = "<image>"


def image_token_id(tokenizer: Any) -> int:
    """The id of "<image>", which is added to the tokenizer where it is missing."""
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    token_id: int = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    return token_id


def grown(rows: Tensor, size: int) -> Tensor:
    """A matrix of one row per token [V, D] with further rows, up to `size`.

    Every new row is the mean of the old ones: its logit is the mean of their logits, so a new
    token is never the likeliest before it is trained.
    """
    if size <= len(rows):
        return rows
    mean = rows.float().mean(dim=0, keepdim=True).to(rows.dtype)
    return torch.cat([rows, mean.expand(size - len(rows), -1)])


def space_before(text: str) -> str:
    """The space with which Llama's tokenizer begins a text, as far as the text has none."""
    return " " if text and not text.startswith(" ") else ""


def needs_space_after_image(tokenizer: Any, image: str = IMAGE_TOKEN) -> bool:
    """Whether `space_before` the text after an image gives the tokens that LLaVA's code makes.

    That code tokenises the text after an image by itself.

    Args:
        tokenizer: knows "<image>".
        image: what stands for an image in a prompt, see `radio_llava.hf.chat_template`.

    Returns:
        False where the text as it is gives those tokens.

    Raises:
        ValueError: neither does.
    """
    mark = image.partition(IMAGE_TOKEN)[2]
    texts = [mark + text for text in ("\nAnswer", " Answer", "Answer")]
    alone = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    for needed in (False, True):
        spaced = [space_before(text) * needed + text for text in texts]
        ids = [tokenizer.encode(IMAGE_TOKEN + t, add_special_tokens=False) for t in spaced]
        if [after[1:] for after in ids] == alone:
            return needed
    raise ValueError(
        f"{type(tokenizer).__name__} tokenises a text after {IMAGE_TOKEN} unlike the text by "
        "itself: the model would see other tokens than in its training"
    )
