"""The features tab: the student, its heads and its teachers as colours, and what is like what."""

import re
import time
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import torch
from gradio.processing_utils import save_pil_to_cache
from gradio.utils import get_upload_folder
from PIL import Image
from torch import Tensor

from radio_core.data.transforms import radio_resize_size, to_tensor
from radio_core.models.radio import RadioModel
from radio_core.pictures import PcaColours, fit_pca, foreground, patch_similarity
from radio_core.teachers import load_teacher
from radio_core.vision import Resolution, VisionModel, nearest_resolution
from radio_demos.drawing import (
    Captioned,
    colour_picture,
    heat_picture,
    mark,
    picture_input,
    sheet,
    shown_size,
    spread,
)
from radio_demos.models import Model, Student, open_student
from radio_demos.safety import BLOCKS, UNSEEN, Recent, fingerprint, on_picture, runs

INTRODUCTION = """### What does the model see?
Equal colours mean equal features. One student makes all of these maps in a single pass: its own,
and one for each teacher that it imitates. **Click anywhere in the picture** to see what the model
finds similar to that place."""

STUDENT = "student"

_LARGEST = 1024  # pixels of the slider's end for a model that names no limit
_SMALLEST = 8  # steps
_USUAL = 224  # pixels, where a model does not say what it prefers
_MOST_TOKENS = 4096  # of one map, that a projection is fitted to
_POINT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*")


def build_features(
    model: Model | VisionModel | str | Path = "toy", teachers: Sequence[str] = ()
) -> Any:
    """The features tab.

    Args:
        model: see `radio_demos.models.open_demo_model`; of an exported file the heads in it are
            shown.
        teachers: names for `radio_core.teachers.load_teacher`, shown on request beside the heads.

    Returns:
        A `gr.Blocks`.

    Raises:
        CannotServe: a ValueError; the file holds a part of a model. Others as `open_demo_model`.
    """
    maps = FeatureMaps(open_student(model), teachers)
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
                side, point, *boxes = _controls(maps)
                download = gr.DownloadButton("Download all as PNG", size="sm")

        def clicked(event: gr.SelectData) -> str:
            x, y = event.index
            return f"{x:.0f},{y:.0f}"

        picture.select(clicked, None, point, **UNSEEN, queue=False)
        show, outputs = on_picture(partial(_show, maps)), [gallery, status, download]
        asked: dict[str, Any] = {"fn": show, "inputs": [picture, side, point, *boxes]}
        asked |= {"outputs": outputs, "show_progress_on": [gallery], **runs()}
        changes = [side.release, point.change, *(box.change for box in boxes)]
        gr.on(changes, **asked, trigger_mode="always_last", api_name="features")
        # the place belongs to the picture before
        emptied = picture.change(lambda: "", None, point, **UNSEEN, queue=False)
        emptied.then(**asked, **UNSEEN)
        blocks.load(**asked, **UNSEEN)
    return blocks


def _controls(maps: "FeatureMaps") -> list[Any]:
    """Resolution, point, masked, smooth and teachers: what `_show` takes."""
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


def _show(
    all_maps: "FeatureMaps",
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
    maps = all_maps.at(picture, int(side), teachers)
    taken = time.perf_counter() - started
    place, size, shown = read_point(point, picture), shown_size(picture), []
    _, rows, columns = maps[0].features.shape
    bases = {} if place else all_maps.colours(picture, masked, teachers)
    for found in maps:
        if place is None:
            drawn = colour_picture(found.features, bases[found.space], size, masked, smooth)
            shown.append((drawn, found.name))
            continue
        # the cosine similarity with the patch at the place, brightest at 1
        h, w = found.features.shape[-2:]
        cell = min(h - 1, int(place[1] * h)), min(w - 1, int(place[0] * w))
        values = patch_similarity(found.features, *cell)
        heat = heat_picture(values, picture, size, high=1.0, smooth=smooth)
        mark(heat, *place)
        shown.append((heat, f"{found.name}: similarity {spread(values)[0]:.2f} to 1"))
    seen = all_maps.size(picture, int(side))
    line = (
        f"The model sees {seen.width} x {seen.height} pixels as {columns} x {rows} patches of "
        f"{all_maps.radio.patch_size}; computed in {taken * 1000:.0f} ms."
    )
    file = save_pil_to_cache(sheet(shown), get_upload_folder(), name="radio-features", format="png")
    return shown, line, file


def read_point(text: str, picture: Image.Image) -> tuple[float, float] | None:
    """The place "x,y" in pixels as shares of the picture's width and height; None for no text."""
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


class FeatureMap(NamedTuple):
    """Features [C, h, w] on the CPU; maps of the same `space` can be compared as they are."""

    name: str
    space: str
    features: Tensor

    @classmethod
    def of(cls, name: str, space: str, features: Tensor) -> "FeatureMap":
        """The first of a batch [B, C, h, w]."""
        return cls(name, space, features[0].float().cpu())


class SideRange(NamedTuple):
    """Sides in pixels that the slider offers."""

    least: int
    most: int
    step: int
    usual: int


class FeatureMaps:
    """A student and its teachers (names, each loaded when first wanted), asked for maps of
    pictures.

    `only_size` is the (height, width) in pixels to which every image is stretched, for a student
    that takes no others; `sides` is what it takes as its longest side.
    """

    def __init__(self, radio: Student, teachers: Sequence[str] = ()) -> None:
        self.radio = radio
        self.teachers = tuple(teachers)
        self._imitated: dict[str, str] = {}  # teacher -> adaptor; exported files do not say it
        if isinstance(radio, RadioModel):
            self.only_size = radio.config.backbone.fixed_size
            self._imitated = dict(zip(radio.config.teachers, radio.adaptors, strict=False))
        else:
            size = radio.card.fixed_size
            self.only_size = None if size is None else Resolution(*size)
        step = radio.min_resolution_step
        if self.only_size is not None:
            side = max(self.only_size)
            self.sides = SideRange(side, side, step, side)
        else:
            usual = min(radio.preferred_resolution or (_USUAL,))
            most = (radio.max_resolution or _LARGEST) // step * step
            usual = max(step, min(most, round(usual / step) * step))
            self.sides = SideRange(min(_SMALLEST * step, usual), most, step, usual)
        self._teacher = cache(lambda name: load_teacher(name).to(radio.device))
        self._bases: Recent[dict[str, PcaColours]] = Recent(most=32)

    def size(self, image: Image.Image, side: int) -> Resolution:
        """(height, width) at which the student sees an image: of its shape, or the only one."""
        step = self.radio.min_resolution_step
        size = radio_resize_size(image.height, image.width, side, step, longest_edge=True)
        return self.radio.nearest_supported_resolution(*size)

    def at(self, image: Image.Image, side: int, teachers: bool = False) -> list[FeatureMap]:
        """All maps of an image whose longest side becomes `side` pixels, see `size`."""
        least, most, _, _ = self.sides
        if not least <= side <= most:
            raise ValueError(f"resolution {side} is outside of {least} to {most} pixels")
        size = self.size(image, side)
        resized = image.resize((size.width, size.height), Image.Resampling.BICUBIC)
        names = tuple(self.radio.adaptors)
        with torch.inference_mode():
            pixels = to_tensor(resized)[None].to(self.radio.device)
            outputs = self.radio.forward_all(pixels, names)
        maps = [FeatureMap.of(STUDENT, STUDENT, outputs["backbone"].features)]
        maps += [FeatureMap.of(f"{name} head", name, outputs[name].features) for name in names]
        if not teachers:
            return maps
        widths = {found.space: len(found.features) for found in maps}
        pixels = to_tensor(image)[None].to(self.radio.device)
        for name in self.teachers:
            # at the student's resolution where it can, else at its own square
            teacher = self._teacher(name)
            seen = nearest_resolution(*size, teacher.spec.step) if teacher.spec.flexible else None
            features = teacher(pixels, seen).features
            space = self._imitated.get(name, name)
            if widths.get(space) != teacher.spec.feature_dim:
                space = name
            maps.append(FeatureMap.of(f"{name} (teacher)", space, features))
        return maps

    def colours(
        self, image: Image.Image, masked: bool, teachers: bool = False
    ) -> Mapping[str, PcaColours]:
        """One projection for each space, the same for all resolutions of this image.

        They are fitted at the student's preferred resolution, to a head together with the teacher
        that it imitates, and turned so that all resemble the student's; to the foreground alone if
        `masked`.
        """
        key = (fingerprint(image), masked, teachers)
        return self._bases.get(key, lambda: self._fit(image, masked, teachers))

    def _fit(self, image: Image.Image, masked: bool, teachers: bool) -> dict[str, PcaColours]:
        spaces: dict[str, list[Tensor]] = {}
        for found in self.at(image, self.sides.usual, teachers):
            spaces.setdefault(found.space, []).append(_fewer(found.features))
        bases: dict[str, PcaColours] = {}
        for space, maps in spaces.items():
            masks = [foreground(m) if masked else None for m in maps]
            colours = fit_pca(
                [
                    m if mask is None else m[:, mask][..., None]
                    for m, mask in zip(maps, masks, strict=True)
                ]
            )
            if bases:  # the student comes first
                wanted = bases[STUDENT].project(spaces[STUDENT][0])
                colours = colours.resembling(maps[0], wanted, masks[0])
            bases[space] = colours
        return bases


def _fewer(features: Tensor) -> Tensor:
    """A map [C, h, w] averaged down to what a projection is quickly fitted to."""
    height, width = features.shape[-2:]
    shrink = (_MOST_TOKENS / (height * width)) ** 0.5
    if shrink >= 1:
        return features
    size = (max(1, int(height * shrink)), max(1, int(width * shrink)))
    return torch.nn.functional.adaptive_avg_pool2d(features, size)
