"""The options of `radio sam`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from radio_core.cli import UsageError
from radio_sam.load import TOY_SAM


@dataclass(frozen=True, kw_only=True)
class SamOptions:
    """What both actions take."""

    image: Annotated[Path, tyro.conf.Positional]
    """Image file."""
    model: str = "toy"
    """Image encoder: a RADIO release, a file or folder with a model, a hub id; or "sam" for the
    SAM's own."""
    sam: str = TOY_SAM
    """SAM that gives prompt encoder and mask decoder: "toy-sam", "vit_h:CHECKPOINT.pth" (or vit_l,
    vit_b), a checkpoint file alone, or a folder with sam_config.json."""
    adaptor: str = "sam"
    """The model's adaptor that imitates this SAM."""
    window_size: int | None = None
    """Side in patches of the encoder's attention windows; the model's own if None, 0 for global
    attention."""
    image_size: str = ""
    """Pixels that the encoder sees: "1024" for a square of that side, "768x1024" for height x
    width; the SAM's own if empty."""
    skip_padding: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Do not compute the padding of images that are not square."""
    device: str = "auto"
    """Where the model runs, such as "cuda:1"; "auto" takes a GPU where there is one."""
    out: Path | None = None
    """Folder for mask_000.png ... (0 and 255, at the image's size), masks.json (COCO run-length
    codes, boxes, areas, predicted IoUs, prompts) and overlay.png; radio-sam/<name of the image> if
    None."""

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return Path("radio-sam") / self.image.stem if self.out is None else self.out


@dataclass(frozen=True, kw_only=True)
class SegmentOptions(SamOptions):
    """Masks of the objects that boxes and points show.

    Every box is an object. Points refine the box if there is exactly one; without a box, or with
    several, the points together show one object (with several boxes, the last). Of SAM's three
    proposals for each object, the one with the highest predicted IoU is kept.
    """

    box: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="X0,Y0,X1,Y1")
    ] = ()
    """Corners of an object, top left and bottom right, in pixels of the image."""
    point: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="X,Y[,0|1]")
    ] = ()
    """A place on the object (label 1, or none) or on the background (label 0), in pixels."""
    multimask: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write all three proposals of each object, best first, as mask_<object>_<proposal>.png."""


@dataclass(frozen=True, kw_only=True)
class EverythingOptions(SamOptions):
    """Masks of all objects that a grid of points finds, the largest first."""

    points_per_side: int | None = None
    """Points along each side of the grid; 12 for toy-sam and 32 for others if None."""
    pred_iou_thresh: float | None = None
    """Least predicted IoU of a mask, in [0, 1]; 0.6 for toy-sam and 0.88 for others if None."""
    stability_score_thresh: float | None = None
    """Least IoU between the masks at a higher and a lower cut-off, in [0, 1]; 0.75 for toy-sam and
    0.95 for others if None."""
    box_nms_thresh: float = 0.7
    """Of masks whose boxes overlap by more than this IoU, only the best stays, in [0, 1]."""
    crop_layers: int = 0
    """Search also in 4, 16, ... crops of the image, for small objects: number of such layers."""
    min_mask_region_area: int = 0
    """Remove islands and holes of fewer pixels; needs opencv."""

    def __post_init__(self) -> None:
        for flag, count, least in (
            ("--points-per-side", self.points_per_side, 1),
            ("--crop-layers", self.crop_layers, 0),
            ("--min-mask-region-area", self.min_mask_region_area, 0),
        ):
            if count is not None and count < least:
                raise UsageError(f"{flag} must be at least {least}, not {count}")
        for flag, value in (
            ("--pred-iou-thresh", self.pred_iou_thresh),
            ("--stability-score-thresh", self.stability_score_thresh),
            ("--box-nms-thresh", self.box_nms_thresh),
        ):
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"{flag} must be between 0 and 1, not {value}")


def read_image_size(text: str) -> int | tuple[int, int] | None:
    """What "1024" or "768x1024" (height x width) mean; None for "".

    Raises:
        UsageError: another form.
    """
    if not text:
        return None
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", text):
        raise UsageError(
            f"--image-size {text!r} must be a side (1024) or height x width (768x1024)"
        )
    sides = [int(side) for side in text.split("x")]
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])
