"""Find objects in an image: radio sam {segment,everything} IMAGE, with boxes, points or neither."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from radio_core.cli import UsageError, parse
from radio_core.data.images import load_rgb, printable
from radio_core.devices import choose_device
from radio_core.extras import require
from radio_sam.cli.mask_files import FoundMask, encode_mask, write_masks
from radio_sam.cli.overlay import draw_overlay, side_by_side
from radio_sam.cli.prompt_options import ObjectPrompt, place_prompts, read_prompts
from radio_sam.cli.sam_options import (
    EverythingOptions,
    SamOptions,
    SegmentOptions,
    read_image_size,
)
from radio_sam.load import TOY_SAM, load_radio_sam
from radio_sam.prompts import (
    EncodedImage,
    Prompts,
    encode_images,
    predict_best_masks,
    predict_masks,
)

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

_USAGE = """usage: radio sam segment IMAGE --box X0,Y0,X1,Y1 --point X,Y[,0|1] ... [OPTIONS]
       radio sam everything IMAGE [OPTIONS]

segment     masks of the objects that boxes and points show
everything  masks of all objects that a grid of points finds

'radio sam segment --help' and 'radio sam everything --help' tell the options."""

_LISTED = 20  # masks that get a line of text
_MASK_VALUES = 2**27  # most logits at the image's size at any time: half a gigabyte of float32

Pixels = NDArray[np.uint8]


def main(argv: Sequence[str]) -> int:
    """Run `radio sam ACTION IMAGE ...`; returns the exit code."""
    actions: dict[str, Callable[[Sequence[str]], None]]
    actions = {"segment": _segment, "everything": _everything}
    if not argv or argv[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if argv else 2
    action, *rest = argv
    if action not in actions:
        raise UsageError(f"unknown action {action!r}; known: {', '.join(actions)}")
    actions[action](rest)
    return 0


def _segment(argv: Sequence[str]) -> None:
    options = parse(SegmentOptions, argv, prog="radio sam segment")
    errors = Console(stderr=True)
    objects = read_prompts(options.box, options.point)
    image = _read(options)
    height, width = image.shape[:2]
    objects = place_prompts(objects, width, height, lambda line: _say(errors, line))
    with errors.status("loading the model") as status:
        sam = _load(options, image)
        status.update("encoding the image")
        encoded = encode_images(sam, [image])[0]
        status.update("decoding the masks")
        masks = _masks_of(sam, encoded, objects, options.multimask)
    for found in masks:
        if found.area == 0:
            _say(errors, f"object {found.number}: the mask is empty")
    proposals = sorted({found.proposal for found in masks})
    pictures = [
        draw_overlay(image, [found for found in masks if found.proposal == proposal])
        for proposal in proposals
    ]
    _write(options.folder, masks, side_by_side(pictures), multimask=options.multimask)


def _masks_of(
    sam: "Sam", encoded: EncodedImage, objects: Sequence[ObjectPrompt], multimask: bool
) -> list[FoundMask]:
    """The masks of each object, by falling predicted IoU: one, or with `multimask` all three."""
    at_once = _prompts_at_once(encoded.original_size, 3 if multimask else 1)
    numbered = list(enumerate(objects))
    boxes_alone = [(number, item) for number, item in numbered if not item.points]
    with_points = [(number, item) for number, item in numbered if item.points]
    found = []
    for group in filter(None, (boxes_alone, with_points)):
        prompts = _tensors([item for _, item in group])
        if multimask:
            predicted = predict_masks(sam, encoded, prompts, prompts_per_batch=at_once)
            masks, ious = predicted.masks, predicted.ious
        else:
            best, scores = predict_best_masks(sam, encoded, prompts, prompts_per_batch=at_once)
            masks, ious = best[:, None], scores[:, None]
        for row, (number, item) in enumerate(group):
            order = ious[row].argsort(descending=True, stable=True).tolist()
            found += [
                FoundMask(
                    number=number,
                    proposal=rank,
                    rle=encode_mask(masks[row, column].numpy()),
                    predicted_iou=float(ious[row, column]),
                    prompt=item,
                )
                for rank, column in enumerate(order)
            ]
    return found


def _tensors(objects: Sequence[ObjectPrompt]) -> Prompts:
    """Prompts of objects that all have a box or all have none, and equally many points."""
    boxes = [item.box for item in objects if item.box is not None]
    points = torch.tensor([item.points for item in objects])  # [N, P, 2]
    return Prompts(
        boxes=torch.tensor(boxes) if boxes else None,
        points=points if points.numel() else None,
        labels=torch.tensor([item.labels for item in objects]) if points.numel() else None,
    )


def _everything(argv: Sequence[str]) -> None:
    options = parse(EverythingOptions, argv, prog="radio sam everything")
    if options.min_mask_region_area > 0 and find_spec("cv2") is None:
        raise ImportError("--min-mask-region-area needs opencv: pip install opencv-python-headless")
    errors = Console(stderr=True)
    image = _read(options)
    with errors.status("loading the model"):
        sam = _load(options, image)
    records = _generate(sam, image, options, errors)
    records.sort(key=lambda record: (-record["area"], record["bbox"]))
    masks = [_from_record(number, record) for number, record in enumerate(records)]
    if not masks:
        _say(
            errors,
            "no mask passed the thresholds; lower --pred-iou-thresh or --stability-score-thresh",
        )
    _write(options.folder, masks, draw_overlay(image, masks, prompts=False))


def _generate(
    sam: "Sam", image: Pixels, options: EverythingOptions, errors: Console
) -> list[dict[str, Any]]:
    """The records of SAM's own generator, under a bar that counts the points."""
    toy = options.sam == TOY_SAM
    height, width = image.shape[:2]
    generator = require("segment_anything", extra="sam").SamAutomaticMaskGenerator(
        sam,
        points_per_side=_given(options.points_per_side, 12 if toy else 32),
        points_per_batch=_prompts_at_once((height, width), 3),
        pred_iou_thresh=_given(options.pred_iou_thresh, 0.6 if toy else 0.88),
        stability_score_thresh=_given(options.stability_score_thresh, 0.75 if toy else 0.95),
        box_nms_thresh=options.box_nms_thresh,
        crop_n_layers=options.crop_layers,
        min_mask_region_area=options.min_mask_region_area,
        output_mode="coco_rle",
    )
    total = sum(4**layer * len(grid) for layer, grid in enumerate(generator.point_grids))
    with _progress(errors, total) as advance:
        # The decoder runs once for each batch of points; its first output is a row a point.
        hook = sam.mask_decoder.register_forward_hook(
            lambda _module, _inputs, outputs: advance(len(outputs[0]))
        )
        try:
            records: list[dict[str, Any]] = generator.generate(image)
        finally:
            hook.remove()
    return records


def _from_record(number: int, record: dict[str, Any]) -> FoundMask:
    """One record of SAM's generator."""
    points = tuple((float(x), float(y)) for x, y in record["point_coords"])
    return FoundMask(
        number=number,
        rle=record["segmentation"],
        predicted_iou=float(record["predicted_iou"]),
        prompt=ObjectPrompt(points=points, labels=(1,) * len(points)),
        scores={"stability_score": float(record["stability_score"])},
    )


def _write(
    folder: Path, masks: Sequence[FoundMask], overlay: Image.Image, multimask: bool = False
) -> None:
    """Write all results, and say what they are."""
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
    _say(console, f"{count}, masks.json and overlay.png in {printable(folder)}")


def _read(options: SamOptions) -> Pixels:
    """The image [H, W, 3]; also refuses to begin what could not be written in the end."""
    require("pycocotools.mask", extra="eval")
    return np.array(load_rgb(options.image))


def _load(options: SamOptions, image: Pixels) -> "Sam":
    """The model; refuses an image that would have no pixel left at the model's size."""
    sam = load_radio_sam(
        options.model,
        options.sam,
        adaptor=options.adaptor,
        window_size=options.window_size,
        image_size=read_image_size(options.image_size),
        skip_padding=options.skip_padding,
        device=choose_device(options.device),
    )
    (height, width), side = image.shape[:2], sam.image_encoder.img_size
    if min(height, width) * side < max(height, width):
        raise ValueError(
            f"{printable(options.image)}: {width} x {height} pixels are too narrow for this "
            f"model; the longer side may be at most {side} times the shorter one"
        )
    return sam


def _prompts_at_once(size: tuple[int, int], masks_each: int) -> int:
    """Prompts whose masks at an image's (height, width) go well into memory together."""
    return max(1, min(64, _MASK_VALUES // (masks_each * size[0] * size[1])))


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar; yields what counts points as done."""
    bar = Progress(
        TextColumn("points"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task("points", total=total, rate="")

    def advance(points: int) -> None:
        speed = bar.tasks[0].speed
        bar.update(task, advance=points, rate=f"{speed:.0f}/s" if speed else "")

    with bar:
        yield advance


def _say(console: Console, line: str) -> None:
    """Print one line as it is: no wrapping, no colours."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)
