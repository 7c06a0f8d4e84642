"""Masks from a file against those of COCO annotations, as the evaluation of SAM compares them."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from radio_core.data.folder import FolderError
from radio_core.data.images import printable
from radio_eval.coco.annotations import CocoAnnotations, Instance
from radio_eval.coco.ap import read_list
from radio_eval.coco.masks import BrokenMask, Rle, decode_mask, read_segmentation
from radio_eval.sam.scores import AnnotationScore, mask_iou


def read_predictions(path: Path, annotations: CocoAnnotations) -> dict[int, Rle]:
    """One mask an annotation: a JSON list of {"annotation_id", "segmentation"}.

    Predictions for annotations that are themselves broken are left out.

    Args:
        path: the file; other keys of its objects are ignored.
        annotations: what the masks answer.

    Returns:
        Annotation id -> mask.

    Raises:
        FolderError: the file is missing or has another format; an unknown or repeated annotation;
            or a mask that is none or has another size than the image. One line says which.
    """
    instances = annotations.by_id()
    masks: dict[int, Rle] = {}
    for place, item in enumerate(read_list(path)):
        where = f"{printable(path)}: prediction {place}"
        annotation_id = item.get("annotation_id") if isinstance(item, Mapping) else None
        if not isinstance(annotation_id, int):
            raise FolderError(f"{where} is no object with annotation_id and segmentation")
        if str(annotation_id) in annotations.skipped.reasons and annotation_id not in instances:
            continue
        if annotation_id not in instances:
            raise FolderError(f"{where}: no annotation {annotation_id} in {annotations.path}")
        if annotation_id in masks:
            raise FolderError(f"{where}: a second mask for annotation {annotation_id}")
        record = annotations.records[instances[annotation_id].image_id]
        try:
            masks[annotation_id] = read_segmentation(
                item.get("segmentation"), record.height, record.width
            )
        except BrokenMask as error:
            raise FolderError(f"{where} (annotation {annotation_id}): {error}") from error
    return masks


def missing_predictions(
    annotations: CocoAnnotations, predictions: Mapping[int, Rle]
) -> list[Instance]:
    """The annotations without a prediction, in the file's order."""
    return [i for i in annotations.by_id().values() if i.annotation_id not in predictions]


def score_predictions(
    instances: Iterable[Instance], predictions: Mapping[int, Rle]
) -> Iterator[AnnotationScore]:
    """IoU of every annotation's mask; 0 where there is no prediction.

    Args:
        instances: the annotations that count, crowds included.
        predictions: annotation id -> mask, at the size of the annotation's image.
    """
    for instance in instances:
        rle = predictions.get(instance.annotation_id)
        iou = 0.0 if rle is None else mask_iou(decode_mask(rle), instance.mask)
        yield AnnotationScore(area=instance.area, iou=iou, annotation_id=instance.annotation_id)
