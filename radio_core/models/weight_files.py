"""The files that models come in, read without trusting them."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

MAX_JSON_BYTES = 1 << 20
GET_AGAIN = "get the file again from its original source"


def first_bytes(path: Path) -> bytes:
    """The first bytes of a weight file; what is plainly none is refused.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a directory, an empty file, a git-lfs pointer or a web page.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a directory; give the checkpoint file in it")
    if not path.exists():
        raise FileNotFoundError(f"no {path.name} in {path.parent}: no such file")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file; give a checkpoint file")
    with path.open("rb") as file:
        head = file.read(256)
    if not head:
        raise ValueError(f"{path} is empty; {GET_AGAIN}")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path} is a git-lfs pointer instead of the weights; run `git lfs pull` in its "
            f"repository, or {GET_AGAIN}"
        )
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{path} is a web page instead of the weights; {GET_AGAIN}")
    return head


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file on the CPU, mapped from it and in its dtypes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or no safetensors file.
    """
    first_bytes(path)
    try:
        return load_file(path)
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or no safetensors file ({error}); {GET_AGAIN}"
        ) from None


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is too large, or no JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}: not a saved model")
    if path.stat().st_size > max_bytes:
        raise ValueError(f"{path} has over {max_bytes} bytes: not what its name says")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return data
