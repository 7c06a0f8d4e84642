"""The segment tab: masks of what is clicked, of everything, and heat maps of words."""

import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
import torch
from PIL import Image

from radio_clip.model import RadioClip, RadioPreprocess, build_preprocess, load_radio_clip
from radio_clip.text import Tokenizer
from radio_core.export.runtime import ExportedModel
from radio_core.models.radio import RadioModel
from radio_core.vision import VisionModel
from radio_demos.drawing import example_pictures, heat_picture, picture_input, shown_size, spread
from radio_demos.models import CannotServe, Model, open_demo_model
from radio_demos.safety import BLOCKS, UNSEEN, Recent, fingerprint, on_picture, runs
from radio_sam.export import ExportedImageEncoder, exported_sam
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

INTRODUCTION = """### Click on something, and get its mask
The model stands in for the image encoder of Segment Anything. **Click on an object in the
picture**; a second click refines the mask, a click on the background takes away from it, and two
clicks with *Box* frame an object."""

OBJECT, BACKGROUND, BOX = "Object", "Background", "Box: two corners"
OPPOSITE = "**Now click on the opposite corner.**"
CLICK = "**Click on an object in the picture.**"
MOST_OBJECTS = 32

_SHOWN = 0  # the example that is there at first
_UPLOAD = "Upload a picture, or take one of the examples."
_LONGEST = 1024  # pixels of a picture of which everything is searched
_POINTS_AT_ONCE = 16

Corner = tuple[float, float]
Shown = tuple[Any, Any, str]
"""The result, an update of the original SAM's picture, a line about them."""
_Words = tuple[RadioClip, RadioPreprocess, Tokenizer]


def build_segment(
    model: Model | VisionModel | str | Path = "toy",
    sam: str = TOY_SAM,
    text_tower: str | None = None,
) -> Any:
    """The segment tab.

    Args:
        model: with a sam adaptor, see `radio_demos.models.open_demo_model`; of exported files those
            for `sam`, which know no words.
        sam: whose neck and mask decoder serve, see `radio_sam.load_radio_sam`; loaded when first
            needed, as is SAM's own encoder.
        text_tower: local weights of the text tower of the clip adaptor, so that none is
            downloaded.

    Returns:
        A `gr.Blocks`.

    Raises:
        CannotServe: a ValueError; the exported file holds a whole model. Others as
            `open_demo_model`.
    """
    opened = open_demo_model(model)
    if isinstance(opened, ExportedModel):
        raise CannotServe(
            "this file holds a whole model; for masks export its image encoder with "
            "`radio export onnx MODEL FILE --for sam=SAM`"
        )
    finder = Finder(opened, sam, text_tower)
    drawn: dict[str, Any] = {"format": "png", "interactive": False}
    drawn["buttons"] = ["download", "fullscreen"]
    with gr.Blocks(title="RADIO: segment", **BLOCKS) as blocks:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=3, min_width=280):
                kind = gr.Radio([OBJECT, BACKGROUND, BOX], value=OBJECT, label="Next click")
                picture = picture_input(_SHOWN, elem_id="segment-picture")
            with gr.Column(scale=5, min_width=300):
                result = gr.Image(example_pictures()[_SHOWN], label="With RADIO", **drawn)
                status = gr.Markdown(CLICK)
                original = gr.Image(label="The original SAM", visible=False, **drawn)
            with gr.Column(scale=2, min_width=220):
                everything = gr.Button("Find everything", variant="primary")
                prompts = gr.Textbox(
                    label="Clicks so far",
                    info="a line each: x,y (object), x,y,0 (background), x0,y0,x1,y1 (box)",
                    placeholder="none",
                    lines=2,
                    max_lines=6,
                    max_length=2000,
                )
                forget = gr.Button("Forget the clicks", size="sm")
                beside = gr.Checkbox(label="The original SAM too", info="to compare")
                words = gr.Textbox(
                    label="Find by words",
                    placeholder="a red circle",
                    max_length=200,
                    max_lines=1,
                    visible=finder.knows_words,
                )
                search = gr.Button("Find the words", size="sm", visible=finder.knows_words)
        shown, corner = [result, original, status], gr.State(None)
        asked: dict[str, Any] = {"fn": on_picture(finder.segment), "outputs": shown, **runs()}
        asked["inputs"] = [picture, prompts, beside]
        changes = [prompts.change, beside.change]
        gr.on(changes, **asked, trigger_mode="always_last", api_name="segment")
        picture.select(
            _clicked, [kind, prompts, corner], [prompts, corner, status], **UNSEEN, queue=False
        )
        for trigger in (picture.change, forget.click):
            # the clicks belong to the picture before
            forgotten = trigger(lambda: ("", None), None, [prompts, corner], **UNSEEN, queue=False)
            forgotten.then(**asked, **UNSEEN)

        def find_all(picture: Any, beside: bool, progress: Any = gr.Progress()) -> Any:  # noqa: B008
            return finder.everything(picture, beside, progress)

        everything.click(
            on_picture(find_all), [picture, beside], shown, api_name="everything", **runs()
        )
        gr.on(
            [search.click, words.submit],
            on_picture(finder.words),
            [picture, words],
            shown,
            api_name="words",
            **runs(),
        )
    return blocks


def _clicked(
    kind: str, prompts: str, corner: Corner | None, event: gr.SelectData
) -> tuple[str, Corner | None, Any]:
    """A click on the picture becomes a line of the prompts; of a box, the second one does."""
    x, y = event.index
    if kind != BOX:
        line = f"{x:.0f},{y:.0f}" + (",0" if kind == BACKGROUND else "")
        return added(prompts, line), None, gr.skip()
    if corner is None:
        return prompts, (x, y), OPPOSITE
    (left, right), (top, bottom) = sorted((corner[0], x)), sorted((corner[1], y))
    line = f"{left:.0f},{top:.0f},{right:.0f},{bottom:.0f}"
    return added(prompts, line), None, gr.skip()


def added(prompts: str, line: str) -> str:
    """The prompts with one more line."""
    return "\n".join([*prompts.split(), line])


def read_lines(text: str) -> list[ObjectPrompt]:
    """The objects that lines of numbers ask for: four are a box, others a point."""
    lines = text.split()
    boxes = [line for line in lines if line.count(",") == 3]
    return read_prompts(boxes, [line for line in lines if line.count(",") != 3])


class Finder:
    """Masks and heat maps of pictures; every model is loaded when it is first needed."""

    def __init__(
        self, radio: RadioModel | ExportedImageEncoder, sam: str, text_tower: str | None
    ) -> None:
        device = radio.device
        self._toy = sam == TOY_SAM
        self.knows_words = isinstance(radio, RadioModel)

        def load() -> "Sam":
            if isinstance(radio, RadioModel):
                return load_radio_sam(radio, sam, device=device)
            return exported_sam(radio, sam)

        def load_words() -> _Words:
            if not isinstance(radio, RadioModel):
                raise ValueError("An image encoder alone finds no words: show the model itself.")
            clip, _, tokenizer = load_radio_clip(radio, text_tower=text_tower)
            return clip, build_preprocess(radio, keep_aspect=True), tokenizer

        self._sam = cache(load)
        self._original = cache(lambda: load_radio_sam(ORIGINAL, sam, device=device))
        self._clip = cache(load_words)
        self._encoded: Recent[EncodedImage] = Recent(most=16)

    def segment(self, picture: Image.Image | None, prompts: str, beside: bool) -> Shown:
        """The masks of what the lines of `prompts` show, drawn over the picture."""
        if picture is None:
            return None, _unseen(), _UPLOAD
        if not prompts.strip():
            return picture, _unseen(), CLICK
        objects = place_prompts(read_lines(prompts), *picture.size, gr.Warning)
        if len(objects) > MOST_OBJECTS:
            raise ValueError(f"{len(objects)} objects are too many: take at most {MOST_OBJECTS}")
        pixels = np.array(picture)
        return self._beside(beside, lambda sam, name: self._masks(sam, name, pixels, objects))

    def everything(
        self, picture: Image.Image | None, beside: bool, progress: Callable[..., Any]
    ) -> Shown:
        """The masks of all objects; `progress` is told the share that is done."""
        if picture is None:
            return None, _unseen(), _UPLOAD
        smaller = picture.copy()
        smaller.thumbnail((_LONGEST, _LONGEST))
        pixels = np.array(smaller)
        return self._beside(beside, lambda sam, name: self._all(sam, name, pixels, progress))

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
        # without what Markdown or HTML would read into it
        plain = "".join(c if c.isalnum() or c in " ,.'-" else " " for c in words)
        return (
            heat_picture(values, picture, shown_size(picture)),
            _unseen(),
            f"“{plain}”: bright where the similarity is highest ({low:.3f} to {high:.3f}), "
            f"in {taken * 1000:.0f} ms. Only the picture as a whole was trained to agree with "
            "texts, so take the places as a hint; the bundled toy hardly tells places apart.",
        )

    def _beside(self, beside: bool, find: Callable[["Sam", str], tuple[Image.Image, str]]) -> Shown:
        """What is found with RADIO and, beside it where asked for, with SAM's own encoder."""
        result, line = find(self._sam(), "RADIO")
        if not beside:
            return result, _unseen(), line
        other, second = find(self._original(), "SAM")
        return result, gr.update(value=other, visible=True), f"{line}\n\n{second}"

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
        taken = [1000 * (between - started), 1000 * (time.perf_counter() - between)]
        parts = [f"{mask.area} pixels, predicted IoU {mask.predicted_iou:.2f}" for mask in found]
        line = (
            f"**{name}**: {'; '.join(parts)}. Image encoded in {taken[0]:.0f} ms, masks decoded "
            f"in {taken[1]:.0f} ms."
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


def _unseen() -> Any:
    return gr.update(value=None, visible=False)
