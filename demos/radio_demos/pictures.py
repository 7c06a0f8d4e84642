"""Pictures that come from visitors, and the ones that are there already."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image

from radio_core.data.images import SAFE_FORMATS, UnreadableImage, load_rgb
from radio_core.data.toyworld import render_scene

MAX_FILE_BYTES = 20 * 2**20
"""Of an upload."""
MAX_PIXELS = 16_000_000
"""Of an upload; larger pictures are refused before they are decoded."""

_EXAMPLE_WORLD = 2024
_EXAMPLES = (7, 3, 11, 42, 9)
_BESIDE = (5, 26)
_LARGER = 3


def read_upload(sent: Any) -> Image.Image | None:
    """The picture that a visitor sent, decoded by the toolkit's own careful reader.

    Args:
        sent: what gradio passes on where it does not decode: a dict with the "path" of a file; or
            None. Gradio checks that it is an upload only where the request says that it is a file,
            so that is checked here.

    Returns:
        8-bit RGB, upright.

    Raises:
        gr.Error: the file is no upload, no image, is broken or has too many pixels; the message
            says what can be used.
    """
    if sent is None:
        return None
    path = sent.get("path") if isinstance(sent, dict) else None
    if not isinstance(path, str) or not _is_upload(path):
        raise gr.Error("Upload a file; nothing else is read.", print_exception=False)
    try:
        return load_rgb(path, max_pixels=MAX_PIXELS)
    except UnreadableImage as error:
        raise gr.Error(
            f"This picture cannot be used ({error.reason}). Take a {', '.join(SAFE_FORMATS)} "
            f"of at most {MAX_PIXELS // 10**6} megapixels.",
            print_exception=False,
        ) from error


def _is_upload(path: str) -> bool:
    """Whether a file lies in the folder that gradio keeps uploads and examples in."""
    try:
        return Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve())
    except (OSError, ValueError):  # of names that no file can have
        return False


def picture_input(chosen: int = 0, **options: Any) -> Any:
    """A `gr.Image` for the visitor's picture, with the examples below it.

    Args:
        chosen: the example that is there at first.
        options: whatever `gr.Image` takes besides.
    """
    examples = example_pictures()
    picture = gr.Image(
        examples[chosen],
        label="Picture",
        type="filepath",
        format="png",
        sources=["upload", "clipboard"],
        buttons=["fullscreen"],
        height=320,
        **options,
    )
    gr.Examples([[image] for image in examples], picture, label="Examples")
    return picture


@cache
def example_pictures() -> tuple[Image.Image, ...]:
    """Scenes of the toy world, magnified to be seen well; the last is twice as wide as high."""
    scenes = [render_scene(_EXAMPLE_WORLD, index).image for index in _EXAMPLES]
    wide = [render_scene(_EXAMPLE_WORLD, index).image for index in _BESIDE]
    pictures = [Image.fromarray(pixels) for pixels in (*scenes, np.concatenate(wide, axis=1))]
    method = Image.Resampling.BICUBIC
    return tuple(p.resize((_LARGER * p.width, _LARGER * p.height), method) for p in pictures)


def fingerprint(image: Image.Image) -> str:
    """A digest that tells pictures apart."""
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


def reduced(image: Image.Image, longest: int) -> Image.Image:
    """The image, made smaller where a side has more than `longest` pixels."""
    copy = image.copy()
    copy.thumbnail((longest, longest))
    return copy
