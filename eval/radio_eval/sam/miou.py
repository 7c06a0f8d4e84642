"""SAM on COCO: ground-truth boxes as prompts, mean IoU over annotations (paper Table 8)."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from radio_core.data.images import UnreadableImage
from radio_eval.coco.annotations import Box, Skipped
from radio_eval.coco.ap import Detection, ScoredMask, mask_ap
from radio_eval.coco.decode import Decoded, decoded_batches
from radio_eval.coco.instances import CocoInstances
from radio_eval.coco.masks import encode_mask
from radio_eval.eval_model import EvalModel, need
from radio_eval.processes import Processes
from radio_eval.progress import Progress
from radio_eval.sam.results import AnnotationResult, DetectionResult, ImageResult, ResultFolder
from radio_eval.sam.scores import AnnotationScore, Mask, box_mask, mask_iou, summarise
from radio_sam.prompts import EncodedImage, Prompts, encode_images, predict_best_masks

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


@dataclass(frozen=True, kw_only=True)
class SamParameters:
    """Parameters of the protocol.

    Attributes:
        prompt: the ground-truth box of every annotation, crowds included, not rounded.
        mask: of three proposals, the one with the highest predicted IoU is kept.
        images_per_batch: images encoded at once.
        prompts_per_batch: boxes decoded at once.
        keep_masks: keep every mask with its result.
    """

    prompt: str = field(default="ground-truth box", init=False)
    mask: str = field(default="highest predicted IoU of three", init=False)
    images_per_batch: int = 8
    prompts_per_batch: int = 32
    keep_masks: bool = False

    def __post_init__(self) -> None:
        if self.images_per_batch < 1 or self.prompts_per_batch < 1:
            raise ValueError("SAM batch sizes must be at least 1")


def box_masks(
    sam: "Sam", encoded: EncodedImage, boxes: Sequence[Box], prompts_per_batch: int = 32
) -> Iterator[tuple[Mask, float]]:
    """Segment one encoded image at every box.

    Args:
        sam: the model that encoded it.
        encoded: the image.
        boxes: x0, y0, x1, y1 in pixels of the original image.
        prompts_per_batch: boxes decoded at once; as many masks are in memory.

    Yields:
        For each box a mask [height, width] at the original size, and its predicted IoU.
    """
    for start in range(0, len(boxes), prompts_per_batch):
        chunk = torch.tensor(boxes[start : start + prompts_per_batch], dtype=torch.float32)
        prompts = Prompts(boxes=chunk)
        masks, ious = predict_best_masks(sam, encoded, prompts, prompts_per_batch)
        yield from zip(masks.numpy(), ious.tolist(), strict=True)


def score_boxes(coco: CocoInstances) -> list[AnnotationScore]:
    """The trivial baseline: every ground-truth box, filled, against its mask."""
    scores = []
    for image_id in coco.image_ids:
        for instance in coco.instances(image_id):
            truth = instance.mask
            iou = mask_iou(box_mask(instance.box, *truth.shape), truth)
            scores.append(AnnotationScore(area=instance.area, iou=iou))
    return scores


@dataclass(frozen=True, kw_only=True)
class SamScorer:
    """Segments the images of a split and compares the masks with the truth.

    Attributes:
        sam: the model.
        coco: the split.
        detections: a detector's boxes by image; their masks are kept.
        parameters: the protocol.
    """

    sam: "Sam"
    coco: CocoInstances
    detections: Mapping[int, Sequence[Detection]]
    parameters: SamParameters

    def batch(self, images: Mapping[int, Decoded], done: Collection[int]) -> list[ImageResult]:
        """Results of a batch; nothing is computed if all that can be read of it is done."""
        results: list[ImageResult] = []
        usable: dict[int, np.ndarray] = {}
        for image_id, image in images.items():
            if isinstance(image, UnreadableImage):
                results.append(ImageResult(image_id=image_id, skipped=image.reason))
            elif self._is_too_narrow(image):
                results.append(ImageResult(image_id=image_id, skipped="too narrow to be resized"))
            else:
                usable[image_id] = image
        if not set(usable) <= set(done):
            encoded = encode_images(self.sam, list(usable.values()))
            results += [self._image(i, e) for i, e in zip(usable, encoded, strict=True)]
        return results

    def _is_too_narrow(self, image: np.ndarray) -> bool:
        """Whether nothing is left of it when its longest side fits into the encoder."""
        short, long = sorted(image.shape[:2])
        return int(short * int(self.sam.image_encoder.img_size) / long + 0.5) < 1

    def _image(self, image_id: int, encoded: EncodedImage) -> ImageResult:
        at_once = self.parameters.prompts_per_batch
        instances = self.coco.instances(image_id)
        detections = self.detections.get(image_id, ())
        found = box_masks(self.sam, encoded, [i.box for i in instances], at_once)
        detected = box_masks(self.sam, encoded, [d.box for d in detections], at_once)
        return ImageResult(
            image_id=image_id,
            annotations=tuple(
                AnnotationResult(
                    annotation_id=instance.annotation_id,
                    image_id=image_id,
                    area=instance.area,
                    iou=mask_iou(mask, instance.mask),
                    predicted_iou=predicted,
                    segmentation=encode_mask(mask) if self.parameters.keep_masks else None,
                )
                for instance, (mask, predicted) in zip(instances, found, strict=True)
            ),
            detections=tuple(
                DetectionResult(
                    image_id=image_id,
                    category_id=detection.category_id,
                    score=detection.score,
                    predicted_iou=predicted,
                    segmentation=encode_mask(mask),
                )
                for detection, (mask, predicted) in zip(detections, detected, strict=True)
            ),
        )


@dataclass(frozen=True, kw_only=True)
class SamEvaluator:
    """Mean IoU (percent) of masks from ground-truth boxes, on a COCO split.

    Attributes:
        coco: the split.
        parameters: the protocol.
        detections: boxes of a detector, whose masks give COCO's AP; none by default.
        skipped_detections: those that could not be used.
        processes: those that share the work; all must call.
        results: folder that is continued and filled; None keeps the results in memory.
        skipped_images: after a call, the images that could not be used.
    """

    coco: CocoInstances
    parameters: SamParameters = SamParameters()
    detections: Sequence[Detection] = ()
    processes: Processes = field(default_factory=Processes)
    results: ResultFolder | None = None
    skipped_detections: Skipped = field(default_factory=Skipped)
    skipped_images: Skipped = field(default_factory=Skipped)
    task: ClassVar[str] = "sam_miou"
    headline: ClassVar[str] = "all"
    capability: ClassVar[str] = "sam"

    def __call__(self, model: EvalModel, progress: Progress) -> Iterator[tuple[str, float]]:
        """Yield all, small, medium, large and AP... (percent; empty groups are left out), count.

        Raises:
            ValueError: no image could be used.
        """
        sam = need(model.sam, model, "Segment Anything decoder", self.task)()
        by_image: dict[int, list[Detection]] = {}
        for detection in self.detections:
            by_image.setdefault(detection.image_id, []).append(detection)
        image_ids = self.coco.first_images(also=by_image)
        scorer = SamScorer(sam=sam, coco=self.coco, detections=by_image, parameters=self.parameters)
        own = self._run(scorer, image_ids, progress)
        shares = self.processes.gather(own)
        outcome = self._outcome(image_ids, shares) if self.processes.is_first else None
        metrics, skipped = self.processes.from_first(outcome)
        for image_id, reason in skipped.items():
            self.skipped_images.add(image_id, reason)
        yield from metrics.items()
        yield "image_size", float(sam.image_encoder.img_size)

    def skipped(self) -> dict[str, Any]:
        """What was left out, as JSON types: counts and reasons by kind."""
        return {
            "images": self.skipped_images.to_json(),
            "annotations": self.coco.skipped.to_json(),
            "detections": self.skipped_detections.to_json(),
        }

    def _run(
        self, scorer: SamScorer, image_ids: Sequence[int], progress: Progress
    ) -> dict[int, ImageResult]:
        """This process's share of the results.

        Whole batches are shared and continued, and always the same ones: how images are batched
        decides the last bits of a result.
        """
        size = self.parameters.images_per_batch
        batches = [image_ids[start : start + size] for start in range(0, len(image_ids), size)]
        own = self.processes.share(batches)
        done = self.results.done if self.results is not None else {}
        found = {i: done[i] for batch in own for i in batch if i in done}
        pending = [batch for batch in own if not found.keys() >= set(batch)]
        part = self.results.open_part(self.processes.rank) if self.results is not None else None
        count, total = 0, sum(map(len, pending))
        try:
            for images in decoded_batches(scorer.coco, pending):
                results = scorer.batch(images, found.keys())
                if part is not None:
                    part.write(results)
                found.update({result.image_id: result for result in results})
                count += len(images)
                progress("SAM images", count, total)
        finally:
            if part is not None:
                part.close()
        return found

    def _outcome(
        self, image_ids: Sequence[int], shares: Sequence[Mapping[int, ImageResult]]
    ) -> tuple[dict[str, float], dict[int, str]]:
        """Metrics of all processes' results, and the reasons of skipped images."""
        everything = {i: result for share in shares for i, result in share.items()}
        results = [everything[image_id] for image_id in image_ids]
        if self.results is not None:
            self.results.finish(results)
        skipped = {r.image_id: r.skipped for r in results if r.skipped is not None}
        scores = [AnnotationScore(area=a.area, iou=a.iou) for r in results for a in r.annotations]
        if not scores:
            reasons = ", ".join(sorted(set(skipped.values()))[:3]) or "no annotations on them"
            raise ValueError(f"none of the {len(results)} images could be used: {reasons}")
        metrics: dict[str, float | None] = dict(summarise(scores))
        if self.detections:
            metrics |= self._precision(image_ids, results)
        return {name: value for name, value in metrics.items() if value is not None}, skipped

    def _precision(
        self, image_ids: Sequence[int], results: Sequence[ImageResult]
    ) -> dict[str, float | None]:
        """COCO's numbers of the detector's boxes, percent; None where there is nothing to find."""
        masks = [
            ScoredMask(
                image_id=d.image_id,
                category_id=d.category_id,
                score=d.score,
                rle=d.segmentation,
            )
            for result in results
            for d in result.detections
        ]
        fractions = mask_ap(self.coco, image_ids, masks)
        return {name: 100 * value if value >= 0 else None for name, value in fractions.items()}
