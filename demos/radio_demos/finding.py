"""What the segment tab asks of Segment Anything and of the clip adaptor."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
import torch
from PIL import Image

from radio_clip.model import RadioClip, RadioPreprocess, build_preprocess, load_radio_clip
from radio_clip.text import Tokenizer
from radio_core.models.radio import RadioModel
from radio_demos.drawing import heat_picture, shown_size, spread
from radio_demos.handlers import Late, Recent
from radio_demos.models import EncoderFile, device_of
from radio_demos.pictures import fingerprint, reduced
from radio_sam.export import load_exported_sam
from radio_sam.load import ORIGINAL, TOY_SAM, load_radio_sam
from radio_sam.objects import (
    EVERYTHING,
    TOY_EVERYTHING,
    ObjectPrompt,
    Pixels,
    check_shape,
    find_everything,
    find_objects,
    place_prompts,
    read_prompts,
)
from radio_sam.overlay import draw_overlay
from radio_sam.prompts import EncodedImage, encode_images

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

_Words = tuple[RadioClip, RadioPreprocess, Tokenizer]
Shown = tuple[Any, Any, str]
"""The result, an update of the original SAM's picture, a line about them."""

CLICK = "**Click on an object in the picture.**"

_UPLOAD = "Upload a picture, or take one of the examples."
MOST_OBJECTS = 32
_LONGEST = 1024  # pixels of a picture of which everything is searched
_POINTS_AT_ONCE = 16


class Finder:
    """Masks and heat maps of pictures; every model is loaded when it is first needed.

    Args:
        radio: the model, or the file with SAM's image encoder alone.
        sam: see `radio_sam.load_radio_sam`.
        text_tower: see `radio_clip.load_radio_clip`.

    Attributes:
        knows_words: whether it finds words; a file with an image encoder alone has no text side.
    """

    def __init__(self, radio: RadioModel | EncoderFile, sam: str, text_tower: str | None) -> None:
        device = device_of(radio)
        self._toy = sam == TOY_SAM
        self.knows_words = isinstance(radio, RadioModel)

        def load() -> "Sam":
            if isinstance(radio, EncoderFile):
                return load_exported_sam(radio.path, sam, device)
            return load_radio_sam(radio, sam, device=device)

        def load_words() -> _Words:
            if isinstance(radio, EncoderFile):
                raise ValueError("An image encoder alone finds no words: show the model itself.")
            clip, _, tokenizer = load_radio_clip(radio, text_tower=text_tower)
            return clip, build_preprocess(radio, keep_aspect=True), tokenizer

        self._sam = Late(load)
        self._original = Late(lambda: load_radio_sam(ORIGINAL, sam, device=device))
        self._clip = Late(load_words)
        self._encoded: Recent[EncodedImage] = Recent(most=16)

    def segment(self, picture: Image.Image | None, prompts: str, beside: bool) -> Shown:
        """The masks of what the lines of `prompts` show, drawn over the picture.

        Raises:
            ValueError: lines that are no prompts, or lie outside of the picture.
        """
        if picture is None:
            return None, _unseen(), _UPLOAD
        if not prompts.strip():
            return picture, _unseen(), CLICK
        objects = place_prompts(read_lines(prompts), *picture.size, gr.Warning)
        if len(objects) > MOST_OBJECTS:
            raise ValueError(f"{len(objects)} objects are too many: take at most {MOST_OBJECTS}")
        pixels = np.array(picture)
        result, line = self._masks(self._sam(), "RADIO", pixels, objects)
        if not beside:
            return result, _unseen(), line
        other, second = self._masks(self._original(), "SAM", pixels, objects)
        return result, gr.update(value=other, visible=True), f"{line}\n\n{second}"

    def everything(
        self, picture: Image.Image | None, beside: bool, progress: Callable[..., Any]
    ) -> Shown:
        """The masks of all objects; `progress` is told the share that is done."""
        if picture is None:
            return None, _unseen(), _UPLOAD
        pixels = np.array(reduced(picture, _LONGEST))
        result, line = self._all(self._sam(), "RADIO", pixels, progress)
        if not beside:
            return result, _unseen(), line
        other, second = self._all(self._original(), "SAM", pixels, progress)
        return result, gr.update(value=other, visible=True), f"{line}\n\n{second}"

    def words(self, picture: Image.Image | None, words: str) -> Shown:
        """A heat map of where the clip adaptor sees a text."""
        if picture is None:
            return None, _unseen(), _UPLOAD
        if not words.strip():
            raise ValueError("Type what to look for, such as: a red circle")
        clip, preprocess, tokenizer = self._clip()
        images = preprocess(picture)[None].to(clip.logit_scale.device)
        started = time.perf_counter()
        with torch.inference_mode():
            tokens = tokenizer([words]).to(images.device)
            values = clip.dense_similarity(images, clip.encode_text(tokens))[0, 0].float().cpu()
        taken = time.perf_counter() - started
        low, high = spread(values)
        return (
            heat_picture(values, picture, shown_size(picture)),
            _unseen(),
            f"“{_plain(words)}”: bright where the similarity is highest ({low:.3f} to {high:.3f}), "
            f"in {_ms(taken)}. Only the picture as a whole was trained to agree with texts, so "
            "take the places as a hint; the bundled toy hardly tells places apart.",
        )

    def _masks(
        self, sam: "Sam", name: str, pixels: Pixels, objects: Sequence[ObjectPrompt]
    ) -> tuple[Image.Image, str]:
        """The overlay of the objects' masks, and a line about them."""
        check_shape(sam, pixels, "this picture")
        started = time.perf_counter()
        key = (name, fingerprint(Image.fromarray(pixels)))
        encoded = self._encoded.get(key, lambda: encode_images(sam, [pixels])[0])
        between = time.perf_counter()
        found = find_objects(sam, encoded, objects)
        done = time.perf_counter()
        parts = [f"{mask.area} pixels, predicted IoU {mask.predicted_iou:.2f}" for mask in found]
        line = (
            f"**{name}**: {'; '.join(parts)}. Image encoded in {_ms(between - started)}, masks "
            f"decoded in {_ms(done - between)}."
        )
        return draw_overlay(pixels, found), line

    def _all(
        self, sam: "Sam", name: str, pixels: Pixels, progress: Callable[..., Any]
    ) -> tuple[Image.Image, str]:
        check_shape(sam, pixels, "this picture")
        options = {
            **(TOY_EVERYTHING if self._toy else EVERYTHING | {"points_per_side": 16}),
            "points_per_batch": _POINTS_AT_ONCE,
        }

        def listen(_what: str, done: int, total: int | None) -> None:
            share = min(1.0, done / total) if total else 0.0
            progress(share, desc=f"{name}: searching everywhere")

        started = time.perf_counter()
        found = find_everything(sam, pixels, options, listen)
        taken = time.perf_counter() - started
        line = f"**{name}**: {len(found)} objects in {taken:.1f} s."
        return draw_overlay(pixels, found, prompts=False), line


def read_lines(text: str) -> list[ObjectPrompt]:
    """The objects that lines of numbers ask for: four are a box, others a point.

    Raises:
        ValueError: a line that is neither, or background points alone.
    """
    lines = text.split()
    boxes = [line for line in lines if line.count(",") == 3]
    return read_prompts(boxes, [line for line in lines if line.count(",") != 3])


def _unseen() -> Any:
    return gr.update(value=None, visible=False)


def _plain(text: str) -> str:
    """A text without what Markdown or HTML would read into it."""
    return "".join(c if c.isalnum() or c in " ,.'-" else " " for c in text)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
