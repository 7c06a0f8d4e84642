"""The features tab: the student, its heads and its teachers as colours, and what is like what."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_pil_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from radio_core.pictures import patch_similarity
from radio_demos.drawing import (
    Captioned,
    colour_picture,
    heat_picture,
    mark,
    sheet,
    shown_size,
    spread,
)
from radio_demos.feature_maps import FeatureMap, FeatureMaps
from radio_demos.handlers import BLOCKS, UNSEEN, on_picture, runs
from radio_demos.models import Model, open_student
from radio_demos.pictures import picture_input

INTRODUCTION = """### What does the model see?
Equal colours mean equal features. One student makes all of these maps in a single pass: its own,
and one for each teacher that it imitates. **Click anywhere in the picture** to see what the model
finds similar to that place."""

_POINT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*")


def build_features(model: Model | str | Path = "toy", teachers: Sequence[str] = ()) -> Any:
    """The features tab.

    Args:
        model: a RADIO model, an exported one (`radio_core.export.runtime.load_exported`), of which
            the heads in the file are shown, or whatever `radio_demos.models.open_model` takes.
        teachers: names for `radio_core.teachers.load_teacher`, shown on request beside the heads.

    Returns:
        A `gr.Blocks`.

    Raises:
        ValueError: as `open_model`; `CannotServe` for a file that holds a part of a model.
        OSError: as `open_model`.
        ImportError: as `open_model`.
    """
    tab = _Features(FeatureMaps(open_student(model), teachers))
    with gr.Blocks(title="RADIO: features", **BLOCKS) as blocks:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=3, min_width=280):
                picture = picture_input()
            with gr.Column(scale=5, min_width=300):
                gallery = gr.Gallery(
                    label="Feature maps",
                    show_label=False,
                    columns=2,
                    object_fit="contain",
                    height="auto",
                    format="png",
                    interactive=False,
                    elem_classes="maps",
                )
                status = gr.Markdown()
            with gr.Column(scale=2, min_width=220):
                inputs = [picture, *_controls(tab.maps)]
                download = gr.DownloadButton("Download all as PNG", size="sm")
        _connect(blocks, tab, inputs, [gallery, status, download])
    return blocks


def _controls(maps: FeatureMaps) -> list[Any]:
    """Resolution, point, masked, smooth and teachers: what `_Features.show` takes."""
    sides, only = maps.sides, maps.only_size
    several = sides.least < sides.most  # gradio wants a slider to have a range in any case
    side = gr.Slider(
        sides.least if several else 0,
        sides.most,
        value=sides.usual,
        step=sides.step,
        label="Resolution",
        info="longer side in pixels as the model sees it"
        if only is None
        else f"the model takes {only.width} x {only.height} pixels only: pictures are stretched",
        interactive=several,
    )
    point = gr.Textbox(
        label="Similar to the place",
        info="click in the picture, or type x,y",
        placeholder="none: show colours",
        max_length=40,
    )
    gr.Button("Back to colours", size="sm").click(lambda: "", None, point, **UNSEEN, queue=False)
    masked = gr.Checkbox(label="Foreground only", info="split off by the first component")
    smooth = gr.Checkbox(label="Smooth", info="instead of one square a patch")
    shown = gr.Checkbox(
        label="Teachers too", info=", ".join(maps.teachers), visible=bool(maps.teachers)
    )
    return [side, point, masked, smooth, shown]


def _connect(blocks: Any, tab: "_Features", inputs: list[Any], outputs: list[Any]) -> None:
    picture, side, point, *boxes = inputs

    def clicked(event: gr.SelectData) -> str:
        x, y = event.index
        return f"{x:.0f},{y:.0f}"

    picture.select(clicked, None, point, **UNSEEN, queue=False)
    show = on_picture(tab.show)
    options: dict[str, Any] = {"show_progress_on": outputs[:1], **runs()}
    changes = [side.release, point.change, *(box.change for box in boxes)]
    gr.on(
        changes, show, inputs, outputs, trigger_mode="always_last", api_name="features", **options
    )
    # the place belongs to the picture before
    emptied = picture.change(lambda: "", None, point, **UNSEEN, queue=False)
    emptied.then(show, inputs, outputs, **options, **UNSEEN)
    blocks.load(show, inputs, outputs, **options, **UNSEEN)


class _Features:
    """What the tab computes."""

    def __init__(self, maps: FeatureMaps) -> None:
        self.maps = maps

    def show(
        self,
        picture: Image.Image | None,
        side: float,
        point: str,
        masked: bool,
        smooth: bool,
        teachers: bool,
    ) -> tuple[list[Captioned], str, str | None]:
        """The maps with captions, a line about them, and a PNG file of all."""
        if picture is None:
            return [], "Upload a picture, or take one of the examples.", None
        started = time.perf_counter()
        maps = self.maps.at(picture, int(side), teachers)
        taken = time.perf_counter() - started
        place = read_point(point, picture)
        if place is None:
            shown = self._colours(picture, maps, masked, smooth, teachers)
        else:
            shown = _similarities(picture, maps, place, smooth)
        size = self.maps.size(picture, int(side))
        _, rows, columns = maps[0].features.shape
        line = (
            f"The model sees {size.width} x {size.height} pixels as {columns} x {rows} patches "
            f"of {self.maps.radio.patch_size}; computed in {taken * 1000:.0f} ms."
        )
        folder = get_upload_folder()
        file = save_pil_to_cache(sheet(shown), folder, name="radio-features", format="png")
        return shown, line, file

    def _colours(
        self,
        picture: Image.Image,
        maps: list[FeatureMap],
        masked: bool,
        smooth: bool,
        teachers: bool,
    ) -> list[Captioned]:
        bases = self.maps.colours(picture, masked, teachers)
        size = shown_size(picture)
        return [
            (colour_picture(found.features, bases[found.space], size, masked, smooth), found.name)
            for found in maps
        ]


def read_point(text: str, picture: Image.Image) -> tuple[float, float] | None:
    """The place "x,y" in pixels as shares of the picture's width and height; None for no text.

    Raises:
        ValueError: another form, or a place outside of the picture.
    """
    if not text.strip():
        return None
    found = _POINT.fullmatch(text)
    if found is None:
        raise ValueError(f"the place {text!r} must be x,y in pixels, such as 64,40")
    x, y = float(found[1]), float(found[2])
    if x >= picture.width or y >= picture.height:
        raise ValueError(
            f"the place {text} is outside of the picture of {picture.width} x {picture.height} "
            "pixels (width x height)"
        )
    return (x + 0.5) / picture.width, (y + 0.5) / picture.height


def _similarities(
    picture: Image.Image, maps: list[FeatureMap], place: tuple[float, float], smooth: bool
) -> list[Captioned]:
    """Heat maps of the cosine similarity with the patch at a place, brightest at 1."""
    size, shown = shown_size(picture), []
    for found in maps:
        rows, columns = found.features.shape[-2:]
        cell = min(rows - 1, int(place[1] * rows)), min(columns - 1, int(place[0] * columns))
        values = patch_similarity(found.features, *cell)
        heat = heat_picture(values, picture, size, high=1.0, smooth=smooth)
        mark(heat, *place)
        shown.append((heat, f"{found.name}: similarity {spread(values)[0]:.2f} to 1"))
    return shown
