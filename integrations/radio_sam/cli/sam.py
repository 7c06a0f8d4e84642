"""Find objects in an image: radio sam {segment,everything} IMAGE, with boxes, points or neither."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro
from PIL import Image
from rich.console import Console

from radio_core.cli import UsageError
from radio_core.data.images import load_rgb, printable
from radio_core.devices import choose_device
from radio_core.extras import require
from radio_core.progress import rich_progress
from radio_sam.load import TOY_SAM, load_radio_sam
from radio_sam.objects import (
    EVERYTHING,
    TOY_EVERYTHING,
    FoundMask,
    Pixels,
    check_shape,
    find_everything,
    find_objects,
    place_prompts,
    read_prompts,
)
from radio_sam.overlay import draw_overlay, side_by_side
from radio_sam.prompts import encode_images
from radio_sam.swap import read_image_size

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
JSON_FILE = "masks.json"
_PNG_NAME = re.compile(r"mask_\d{3,}(_\d)?\.png")
_LISTED = 20
"""Masks that get a line of text."""


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
    skip_padding: Switch = False
    """Do not compute the padding of images that are not square."""
    device: str = "auto"
    """Where the model runs, such as "cuda:1"; "auto" takes a GPU where there is one."""
    out: Path | None = None
    """Folder for mask_000.png ... (0 and 255, at the image's size), masks.json (COCO run-length
    codes, boxes, areas, predicted IoUs, prompts) and overlay.png; radio-sam/<name of the image> if
    None."""

    def read(self) -> Pixels:
        """The image [H, W, 3]; also refuses to begin what could not be written in the end."""
        require("pycocotools.mask", extra="eval")
        return np.array(load_rgb(self.image))

    def load(self, image: Pixels) -> "Sam":
        """The model, which the image must suit."""
        try:
            size = read_image_size(self.image_size)
        except ValueError as error:
            raise UsageError(str(error)) from error
        sam = load_radio_sam(
            self.model,
            self.sam,
            self.adaptor,
            self.window_size,
            size,
            self.skip_padding,
            choose_device(self.device),
        )
        check_shape(sam, image, printable(self.image))
        return sam

    def write(
        self, masks: Sequence[FoundMask], overlay: Image.Image, multimask: bool = False
    ) -> None:
        """Write all results, and say what they are."""
        folder = Path("radio-sam") / self.image.stem if self.out is None else self.out
        paths = write_masks(masks, folder, multimask=multimask)
        overlay.save(folder / "overlay.png")
        console = Console()
        for path, found in list(zip(paths, masks, strict=True))[:_LISTED]:
            box = ",".join(f"{value:g}" for value in found.bbox)
            line = f"{path.name}: {found.area} pixels, x,y,w,h {box}, "
            _say(console, line + f"predicted IoU {found.predicted_iou:.3f}")
        if len(masks) > _LISTED:
            _say(console, f"... and {len(masks) - _LISTED} more masks")
        count = "1 mask" if len(masks) == 1 else f"{len(masks)} masks"
        _say(console, f"{count}, {JSON_FILE} and overlay.png in {printable(folder)}")


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
    multimask: Switch = False
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
        least = {"points_per_side": 1, "crop_layers": 0, "min_mask_region_area": 0}
        shares = ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh")
        for name in (*least, *shares):
            value, flag = getattr(self, name), f"--{name.replace('_', '-')}"
            if value is not None and name in least and value < least[name]:
                raise UsageError(f"{flag} must be at least {least[name]}, not {value}")
            if value is not None and name in shares and not 0 <= value <= 1:
                raise UsageError(f"{flag} must be between 0 and 1, not {value}")


def segment(options: SegmentOptions) -> int:
    """Segment the objects of an image that boxes and points show."""
    errors = Console(stderr=True)
    try:
        objects = read_prompts(options.box, options.point)
    except ValueError as error:
        raise UsageError(str(error)) from error
    image = options.read()
    height, width = image.shape[:2]
    try:
        objects = place_prompts(objects, width, height, lambda line: _say(errors, line))
    except ValueError as error:
        raise UsageError(str(error)) from error
    with errors.status("loading the model") as status:
        sam = options.load(image)
        status.update("encoding the image")
        [encoded] = encode_images(sam, [image])
        status.update("decoding the masks")
        masks = find_objects(sam, encoded, objects, multimask=options.multimask)
    for found in masks:
        if found.area == 0:
            _say(errors, f"object {found.number}: the mask is empty")
    pictures = [
        draw_overlay(image, [found for found in masks if found.proposal == proposal])
        for proposal in sorted({found.proposal for found in masks})
    ]
    options.write(masks, side_by_side(pictures), multimask=options.multimask)
    return 0


def everything(options: EverythingOptions) -> int:
    """Segment all objects of an image that a grid of points finds."""
    if options.min_mask_region_area > 0 and find_spec("cv2") is None:
        raise ImportError("--min-mask-region-area needs opencv: pip install opencv-python-headless")
    errors = Console(stderr=True)
    image = options.read()
    with errors.status("loading the model"):
        sam = options.load(image)
    settings = {
        **(TOY_EVERYTHING if options.sam == TOY_SAM else EVERYTHING),
        "box_nms_thresh": options.box_nms_thresh,
        "crop_n_layers": options.crop_layers,
        "min_mask_region_area": options.min_mask_region_area,
    }
    for name in EVERYTHING:
        given = getattr(options, name)
        if given is not None:
            settings[name] = given
    with rich_progress(errors) as progress:
        masks = find_everything(sam, image, settings, progress)
    if not masks:
        _say(
            errors,
            "no mask passed the thresholds; lower --pred-iou-thresh or --stability-score-thresh",
        )
    options.write(masks, draw_overlay(image, masks, prompts=False))
    return 0


def write_masks(masks: Sequence[FoundMask], folder: Path, *, multimask: bool) -> list[Path]:
    """Write mask_000.png ... (0 or 255, at the image's size) and masks.json into a folder.

    The pictures that an earlier masks.json there lists are removed first, so that none of them
    seem to belong to this run. With `multimask` the names are mask_<object>_<proposal>.png.

    Returns:
        The picture of each mask.
    """
    try:
        earlier = json.loads((folder / JSON_FILE).read_text(encoding="utf-8"))
        names = [str(record["file"]) for record in earlier]
    except (OSError, ValueError, TypeError, KeyError):
        names = []  # nothing there, or not ours
    for name in filter(_PNG_NAME.fullmatch, names):
        (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    paths, records = [], []
    for found in masks:
        name = f"mask_{found.number:03d}" + (f"_{found.proposal}" if multimask else "")
        paths.append(folder / f"{name}.png")
        Image.fromarray(found.mask.astype(np.uint8) * 255).save(paths[-1])
        records.append(
            {
                "file": paths[-1].name,
                "object": found.number,
                "segmentation": found.rle,
                "bbox": list(found.bbox),
                "area": found.area,
                "predicted_iou": found.predicted_iou,
                **found.scores,
                "prompt": found.prompt.to_json(),
            }
        )
    text = json.dumps(records, indent=1) + "\n"
    (folder / JSON_FILE).write_text(text, encoding="utf-8")
    return paths


def _say(console: Console, line: str) -> None:
    """Print one line as it is: no wrapping, no colours."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)
