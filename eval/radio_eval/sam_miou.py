"""SAM on COCO: ground-truth boxes as prompts, mean IoU over annotations (paper Table 8)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from radio_core.extras import require
from radio_eval.coco import CocoInstances
from radio_eval.eval_model import EvalModel, need
from radio_eval.progress import Progress
from radio_eval.sam_scores import AnnotationScore, Mask, best_mask, box_mask, mask_iou, summarise

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


@dataclass(frozen=True, kw_only=True)
class SamParameters:
    """Parameters of the protocol.

    Attributes:
        multimask_output: three masks a prompt; the one with the highest predicted IoU is kept.
        images_per_batch: images encoded at once.
        prompts_per_batch: boxes decoded at once.
        prompt: "ground-truth box" of every annotation, crowds included.
    """

    multimask_output: bool = True
    images_per_batch: int = 8
    prompts_per_batch: int = 32
    prompt: str = "ground-truth box"

    def __post_init__(self) -> None:
        if self.images_per_batch < 1 or self.prompts_per_batch < 1:
            raise ValueError("SAM batch sizes must be at least 1")
        if self.prompt != "ground-truth box":
            raise ValueError("SAM prompts are 'ground-truth box' only")


@torch.no_grad()
def encode_images(sam: "Sam", images: Sequence[np.ndarray]) -> tuple[Tensor, list[tuple[int, int]]]:
    """Encode images as SamPredictor does, several at once.

    Args:
        sam: a Segment Anything model, its encoder swapped or not.
        images: uint8 [H, W, 3], RGB, of any sizes.

    Returns:
        embeddings [B, D, g, g], and each image's (height, width) after its longest side was
        brought to the encoder's size.
    """
    transforms = require("segment_anything.utils.transforms", extra="sam")
    resize = transforms.ResizeLongestSide(sam.image_encoder.img_size)
    resized = [torch.as_tensor(resize.apply_image(image)) for image in images]  # [h, w, 3]
    tensors = [image.permute(2, 0, 1).contiguous().to(sam.device) for image in resized]
    embeddings: Tensor = sam.image_encoder(torch.stack([sam.preprocess(t) for t in tensors]))
    return embeddings, [(t.shape[-2], t.shape[-1]) for t in tensors]


@torch.no_grad()
def masks_from_boxes(
    sam: "Sam",
    embedding: Tensor,
    boxes: Tensor,
    input_size: tuple[int, int],
    original_size: tuple[int, int],
    parameters: SamParameters,
) -> list[Mask]:
    """Segment one encoded image at every box.

    Args:
        sam: the model that encoded it.
        embedding: [D, g, g].
        boxes: [N, 4] x0, y0, x1, y1 in pixels of the original image.
        input_size: (height, width) of the resized image before padding.
        original_size: (height, width) of the original image.
        parameters: the protocol.

    Returns:
        N masks [height, width] at the original size.
    """
    transforms = require("segment_anything.utils.transforms", extra="sam")
    resize = transforms.ResizeLongestSide(sam.image_encoder.img_size)
    scaled = resize.apply_boxes_torch(boxes, original_size).to(sam.device)
    masks: list[Mask] = []
    for chunk in scaled.split(parameters.prompts_per_batch):
        sparse, dense = sam.prompt_encoder(points=None, boxes=chunk, masks=None)
        low_resolution, predicted_ious = sam.mask_decoder(
            image_embeddings=embedding[None],
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=parameters.multimask_output,
        )
        rows = torch.arange(len(chunk), device=sam.device)
        best = torch.tensor([best_mask(row) for row in predicted_ious.tolist()], device=sam.device)
        kept = low_resolution[rows, best][:, None]  # [n, 1, 4g, 4g]
        logits = sam.postprocess_masks(kept, input_size, original_size)[:, 0]
        masks.extend((logits > sam.mask_threshold).cpu().numpy())
    return masks


def score_boxes(coco: CocoInstances) -> list[AnnotationScore]:
    """The trivial baseline: every ground-truth box, filled, against its mask."""
    scores = []
    for image_id in coco.image_ids:
        for instance in coco.instances(image_id):
            truth = coco.mask(instance.annotation_id)
            prediction = box_mask(instance.box, *truth.shape)
            scores.append(_score(prediction, truth, instance.area, instance.annotation_id))
    return scores


def score_sam(
    sam: "Sam", coco: CocoInstances, parameters: SamParameters, progress: Progress
) -> list[AnnotationScore]:
    """IoU of every annotation; images that cannot be read are skipped and listed in `coco`."""
    scores: list[AnnotationScore] = []
    size = parameters.images_per_batch
    for start in range(0, len(coco.image_ids), size):
        batch = [
            (image_id, image)
            for image_id in coco.image_ids[start : start + size]
            if (image := coco.image(image_id)) is not None
        ]
        if batch:
            embeddings, sizes = encode_images(sam, [image for _, image in batch])
            for (image_id, image), embedding, input_size in zip(
                batch, embeddings, sizes, strict=True
            ):
                shape = (image.shape[0], image.shape[1])
                instances = coco.instances(image_id)
                boxes = torch.tensor([instance.box for instance in instances], dtype=torch.float)
                masks = masks_from_boxes(sam, embedding, boxes, input_size, shape, parameters)
                scores.extend(
                    _score(mask, coco.mask(i.annotation_id), i.area, i.annotation_id)
                    for mask, i in zip(masks, instances, strict=True)
                )
        progress("SAM images", min(start + size, len(coco.image_ids)), len(coco.image_ids))
    if not scores:
        raise ValueError("none of the images could be read")
    return scores


def _score(prediction: Mask, truth: Mask, area: float, annotation_id: int) -> AnnotationScore:
    return AnnotationScore(area=area, iou=mask_iou(prediction, truth), annotation_id=annotation_id)


@dataclass(frozen=True, kw_only=True)
class SamEvaluator:
    """Mean IoU (percent) of masks from ground-truth boxes, on a COCO split."""

    coco: CocoInstances
    parameters: SamParameters = SamParameters()
    task: ClassVar[str] = "sam_miou"
    headline: ClassVar[str] = "all"
    capability: ClassVar[str] = "sam"

    def __call__(self, model: EvalModel, progress: Progress) -> Iterator[tuple[str, float]]:
        """Yield all, small, medium, large (percent; empty groups are left out) and count."""
        sam = need(model.sam, model, "Segment Anything decoder", self.task)()
        scores = score_sam(sam, self.coco, self.parameters, progress)
        for name, value in summarise(scores).items():
            if value is not None:
                yield name, value
        yield "image_size", float(sam.image_encoder.img_size)
