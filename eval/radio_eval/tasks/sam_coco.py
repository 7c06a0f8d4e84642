"""Segment Anything on COCO: ground-truth boxes as prompts (paper Table 8), and a detector's."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import torch
import tyro

from radio_core.data.images import UnreadableImage, printable
from radio_core.models.fingerprint import files_fingerprint, weights_fingerprint
from radio_core.vision import VisionModel
from radio_eval.data.coco import CocoInstances, Detection, read_detections
from radio_eval.results import Json, Records, Skipped, write_whole
from radio_eval.runner import Context, Task
from radio_eval.scores.masks import LARGE, SMALL, mask_ap, mask_iou, mean_iou
from radio_sam.load import TOY_SAM
from radio_sam.objects import encode_mask
from radio_sam.prompts import EncodedImage, encode_images, segment_boxes
from radio_sam.swap import read_image_size
from radio_sam.vision import open_sam, sam_of

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from radio_eval.report.sections import Section

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
IMAGES_FILE = "images.jsonl"
ANNOTATIONS_FILE, DETECTIONS_FILE = "annotations.json", "detections.json"
_SHOWN = 6
"""Images in a report."""


@dataclass(frozen=True, kw_only=True)
class SamCoco(Task):
    """SAM's mIoU with ground-truth boxes, and AP with those of a detector, on COCO.

    The model is the image encoder: a RADIO model, "sam" for the SAM's own, or a file that
    `radio export --for sam=SAM` wrote. Start it with torchrun to share the work among processes;
    the result is the same.
    """

    data: Annotated[Path, tyro.conf.arg(aliases=("--coco",))]
    """Folder with val2017/, train2017/ and annotations/instances_*.json."""
    sam_checkpoint: str = TOY_SAM
    """SAM that gives neck and mask decoder: "toy-sam", an official checkpoint ("vit_h:FILE.pth",
    or the file alone), or a folder with sam_config.json."""
    split: str = "val2017"
    """Folder of the images and end of the annotation file's name."""
    limit: int | None = None
    """Only the first images; all by default."""
    image_size: str = ""
    """Pixels that the encoder sees: "1024" for a square of that side, "768x1024" for height x
    width; the SAM's own if empty."""
    window_size: int | None = None
    """Side in patches of the encoder's attention windows; the model's own if None, 0 for global
    attention."""
    skip_padding: Switch = False
    """Do not compute the padding of images that are not square."""
    batch_size: int = 8
    """Images encoded at once."""
    prompts_per_batch: int = 32
    """Boxes decoded at once."""
    detections: Path | None = None
    """A detector's boxes, a JSON list of {"image_id", "category_id", "bbox", "score"}: their masks
    give COCO's AP."""
    out: Path | None = None
    """Folder for the results of every image, annotations.json and detections.json. A run that was
    interrupted goes on where it stopped when it is started again."""
    save_masks: Switch = False
    """Put every mask into annotations.json."""
    overwrite: Switch = False
    """Begin anew where --out holds results."""

    name: ClassVar[str] = "sam_miou"
    title: ClassVar[str] = "Segment Anything on COCO"
    headline: ClassVar[str] = "all"
    needs: ClassVar[frozenset[str]] = frozenset({"sam"})
    aside: ClassVar[frozenset[str]] = frozenset(
        ("data", "split", "limit", "batch_size", "prompts_per_batch", "detections")
    ) | {"out", "save_masks", "overwrite"}

    def __post_init__(self) -> None:
        if self.out is None and (self.save_masks or self.overwrite):
            raise ValueError("--save-masks and --overwrite need --out DIR")
        if self.batch_size < 1 or self.prompts_per_batch < 1:
            raise ValueError("SAM batch sizes must be at least 1")
        read_image_size(self.image_size)

    @cached_property
    def coco(self) -> CocoInstances:
        """The split, read once.

        Raises:
            FolderError: it is missing, or cannot be used.
        """
        return CocoInstances(self.data, self.split, self.limit)

    @cached_property
    def boxes(self) -> tuple[dict[int, list[Detection]], Skipped]:
        """The detector's boxes by image, and those that cannot be used."""
        by_image: dict[int, list[Detection]] = {}
        if self.detections is None:
            return by_image, Skipped()
        found, skipped = read_detections(self.detections, self.coco)
        for detection in found:
            by_image.setdefault(detection.image_id, []).append(detection)
        return by_image, skipped

    def parameters(self) -> Json:
        """With what is always so: crowds count, boxes are not rounded."""
        fixed = {"prompt": "ground-truth box", "mask": "highest predicted IoU of three"}
        return {**super().parameters(), **fixed}

    def data_identity(self) -> Json:
        """The annotations and detections by their hashes."""
        return {
            "split": self.split,
            "limit": self.limit,
            "annotations": self.coco.fingerprint,
            "detections": None if self.detections is None else files_fingerprint(self.detections),
        }

    def open_model(self, source: str, device: torch.device) -> VisionModel:
        """As `radio_sam.vision.open_sam`, with the SAM of the task."""
        return open_sam(source, self.sam_checkpoint, device)

    def run(self, model: VisionModel, context: Context) -> Iterator[tuple[str, float]]:
        """Yield all, small, medium, large and AP... (percent; empty groups are left out), count.

        Raises:
            ValueError: no image could be used, or a folder with results of another evaluation.
        """
        sam = sam_of(
            model,
            self.sam_checkpoint,
            window_size=self.window_size,
            image_size=read_image_size(self.image_size),
            skip_padding=self.skip_padding,
        )
        by_image, skipped_detections = self.boxes
        image_ids = self.coco.first_images(also=by_image)
        records = None if self.out is None else self._records(self.out, model, sam, context)
        skipped: dict[int, str] = {}
        with records or nullcontext():
            own = self._segment(sam, image_ids, skipped, records, context)
        if records is not None:
            results = records.merge(lambda record: record["image_id"])
        else:
            shares = context.processes.gather(own, patient=True)
            found = {i: result for share in shares for i, result in share.items()}
            results = [found[image_id] for image_id in image_ids if image_id in found]
        everywhere = context.processes.gather(skipped, patient=True)
        reasons = {i: why for share in everywhere for i, why in sorted(share.items())}
        context.skipped |= {
            "images": Skipped({str(i): reasons[i] for i in sorted(reasons)}),
            "annotations": self.coco.skipped,
            "detections": skipped_detections,
        }
        own_metrics = None
        if context.processes.first:
            if self.out is not None:
                _write_lists(self.out, results)
            own_metrics = self._metrics(image_ids, results, reasons)
        metrics = context.processes.broadcast(own_metrics)
        context.show(lambda: self._sections(sam, metrics, reasons))
        yield from metrics.items()
        yield "image_size", float(sam.image_encoder.img_size)

    def _records(self, out: Path, model: VisionModel, sam: "Sam", context: Context) -> Records:
        """The results of every image on disk; sizes of batches may change between runs."""
        identity = {
            "model": model.spec.name,
            "weights": model.fingerprint(),
            "sam": weights_fingerprint(sam),
            "keep_masks": self.save_masks,
            **self.parameters(),
            **self.data_identity(),
        }
        if self.overwrite and context.processes.first:
            for name in (ANNOTATIONS_FILE, DETECTIONS_FILE):
                (out / name).unlink(missing_ok=True)
        return Records(
            out / IMAGES_FILE,
            identity,
            context.processes,
            overwrite=self.overwrite,
            check=_check_record,
        )

    def _segment(
        self,
        sam: "Sam",
        image_ids: Sequence[int],
        skipped: dict[int, str],
        records: Records | None,
        context: Context,
    ) -> dict[int, Json]:
        """This process's share of the results; `skipped` takes the images that cannot be used.

        Whole batches are shared and continued, and always the same ones: how images are batched
        decides the last bits of a result. What could not be read is tried again in the next run.
        """
        starts = range(0, len(image_ids), self.batch_size)
        batches = [image_ids[start : start + self.batch_size] for start in starts]
        share = context.processes.share(batches)
        done = {} if records is None else {record["image_id"]: record for record in records.found}
        own = {i: done[i] for batch in share for i in batch if i in done}
        pending = [batch for batch in share if not own.keys() >= set(batch)]
        count, total, side = 0, sum(map(len, pending)), int(sam.image_encoder.img_size)
        for images in self.coco.decoded(pending):
            usable: dict[int, np.ndarray] = {}
            for image_id, image in images.items():
                if isinstance(image, UnreadableImage):
                    skipped[image_id] = image.reason
                elif int(min(image.shape[:2]) * side / max(image.shape[:2]) + 0.5) < 1:
                    skipped[image_id] = "too narrow to be resized"
                else:
                    usable[image_id] = image
            if not usable.keys() <= own.keys():
                encoded = encode_images(sam, list(usable.values()))
                found = [self._image(sam, *pair) for pair in zip(usable, encoded, strict=True)]
                if records is not None:
                    records.append(*found)
                own |= {result["image_id"]: result for result in found}
            count += len(images)
            context.progress("SAM images", count, total)
        return own

    def _image(self, sam: "Sam", image_id: int, encoded: EncodedImage) -> Json:
        """What came out for one image, as JSON types."""
        at_once, (by_image, _) = self.prompts_per_batch, self.boxes
        instances, detections = self.coco.instances(image_id), by_image.get(image_id, [])
        found = segment_boxes(sam, encoded, [i.box for i in instances], at_once)
        detected = segment_boxes(sam, encoded, [d.box for d in detections], at_once)
        return {
            "image_id": image_id,
            "annotations": [
                {
                    "annotation_id": instance.annotation_id,
                    "image_id": image_id,
                    "area": instance.area,
                    "iou": mask_iou(mask, instance.mask),
                    "predicted_iou": predicted,
                    **({"segmentation": encode_mask(mask)} if self.save_masks else {}),
                }
                for instance, (mask, predicted) in zip(instances, found, strict=True)
            ],
            "detections": [
                {
                    "image_id": image_id,
                    "category_id": detection.category_id,
                    "score": detection.score,
                    "predicted_iou": predicted,
                    "segmentation": encode_mask(mask),
                }
                for detection, (mask, predicted) in zip(detections, detected, strict=True)
            ],
        }

    def _metrics(
        self, image_ids: Sequence[int], results: Sequence[Json], skipped: Mapping[int, str]
    ) -> dict[str, float]:
        """Percentages; groups without anything in them are left out."""
        scores = [(a["area"], a["iou"]) for result in results for a in result["annotations"]]
        if not scores:
            reasons = ", ".join(sorted(set(skipped.values()))[:3]) or "no annotations on them"
            raise ValueError(f"none of the {len(image_ids)} images could be used: {reasons}")
        metrics = mean_iou(scores)
        if self.detections is not None:
            masks = [detection for result in results for detection in result["detections"]]
            fractions = mask_ap(self.coco.to_json(), masks, image_ids)
            metrics |= {n: 100 * value if value >= 0 else None for n, value in fractions.items()}
        return {name: value for name, value in metrics.items() if value is not None}

    @torch.no_grad()
    def _sections(
        self, sam: "Sam", metrics: Mapping[str, float], skipped: Mapping[int, str]
    ) -> "list[Section]":
        """Images with true masks and the model's, and the IoU by size."""
        from radio_eval.report.figures import bars_figure
        from radio_eval.report.pictures import overlay, thumbnail
        from radio_eval.report.sections import Card, Picture, Section

        coco, cards = self.coco, []
        usable = [image_id for image_id in coco.image_ids if image_id not in skipped]
        places = {place * len(usable) // _SHOWN for place in range(_SHOWN)} if usable else set()
        for place in sorted(places):
            image, instances = coco.image(usable[place]), coco.instances(usable[place])
            truths = [instance.mask for instance in instances]
            [encoded] = encode_images(sam, [image])
            boxes = [instance.box for instance in instances]
            masks = [mask for mask, _ in segment_boxes(sam, encoded, boxes, self.prompts_per_batch)]
            ious = [mask_iou(mask, truth) for mask, truth in zip(masks, truths, strict=True)]
            objects = "1 object" if len(ious) == 1 else f"{len(ious)} objects"
            mean = f" · mean IoU {np.mean(ious):.0f}" if ious else ""
            cards.append(
                Card(
                    title=f"{printable(coco.records[usable[place]].file_name)} · {objects}{mean}",
                    pictures=[
                        Picture(thumbnail(pixels, 320), words)
                        for pixels, words in (
                            (image, "image"),
                            (overlay(image, truths), "truth"),
                            (overlay(image, masks), "mask from the box"),
                        )
                    ],
                )
            )
        sizes = {
            "all": "all",
            "small": f"small: up to {SMALL} square pixels",
            "medium": f"medium: {SMALL} to {LARGE} square pixels",
            "large": f"large: from {LARGE} square pixels",
        }
        return [
            Section(
                title="Masks",
                text=f"{len(cards)} of {len(coco.image_ids)} images, at equal distances in the "
                "order of their ids. Each object's true box was the prompt; its two masks have "
                "the same colour.",
                cards=cards,
            ),
            Section(
                title="IoU by size",
                text="Mean over annotations, in percent. The size is the annotation's area.",
                figures=[bars_figure([(words, metrics.get(n)) for n, words in sizes.items()])],
            ),
        ]


def _check_record(record: Json) -> None:
    """Raise KeyError, TypeError or ValueError for what is no result of an image."""
    int(record["image_id"])
    for annotation in record["annotations"]:
        float(annotation["area"]) + float(annotation["iou"])
    for detection in record["detections"]:
        float(detection["score"]) + len(detection["segmentation"]["counts"])


def _write_lists(out: Path, results: Sequence[Json]) -> None:
    """All annotations and detections as JSON lists, one item a line."""
    for file, name in ((ANNOTATIONS_FILE, "annotations"), (DETECTIONS_FILE, "detections")):
        rows = [json.dumps(row) for result in results for row in result[name]]
        if rows or name == "annotations":
            inside = ",\n".join(rows)
            write_whole(out / file, f"[\n{inside}\n]\n" if rows else "[]\n")
