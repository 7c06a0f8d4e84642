"""Many images and many prompts at once: what `SamPredictor` does one by one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radio_core.extras import require

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


class EncodedImage(NamedTuple):
    """An image behind SAM's encoder.

    Attributes:
        embedding: [D, rows, cols], on the model's device.
        input_size: (height, width) in pixels after resizing, before padding.
        original_size: (height, width) in pixels of the image itself.
    """

    embedding: Tensor
    input_size: tuple[int, int]
    original_size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """N prompts for one image; at least one of the kinds, which are combined prompt by prompt.

    Coordinates are pixels of the original image, x before y.

    Attributes:
        boxes: [N, 4] x0, y0, x1, y1; or None.
        points: [N, P, 2] x, y; or None.
        labels: [N, P], 1 foreground, 0 background, -1 padding (its point does not count); None
            without points.
        masks: [N, 1, 4 * rows, 4 * cols] logits, as `PredictedMasks.low_resolution` has them, for
            an embedding of (rows, cols); or None.

    Raises:
        ValueError: no prompt at all, shapes that do not fit each other, unknown labels, or
            coordinates that are not finite.
    """

    boxes: Tensor | None = None
    points: Tensor | None = None
    labels: Tensor | None = None
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        shapes = {name: tuple(t.shape) for name, t in given.items() if t is not None}
        if not shapes:
            raise ValueError("no prompt: give boxes, points with labels, or masks")
        if (self.points is None) != (self.labels is None):
            raise ValueError("points and labels go together: give both, or none")
        forms = {"boxes": (2, (4,)), "points": (3, (2,)), "labels": (2, ()), "masks": (4, ())}
        for name, shape in shapes.items():
            dims, ending = forms[name]
            if len(shape) != dims or shape[dims - len(ending) :] != ending:
                raise ValueError(f"{name} of shape {list(shape)} are not as `Prompts` wants them")
        if len({shape[0] for shape in shapes.values()}) > 1:
            raise ValueError(f"prompts differ in number: {shapes}")
        if self.points is not None and shapes["points"][:2] != shapes["labels"]:
            raise ValueError(f"points and labels differ in number: {shapes}")
        if self.labels is not None and bool(((self.labels < -1) | (self.labels > 1)).any()):
            raise ValueError("labels are 1 (foreground), 0 (background) or -1 (padding)")
        for name, tensor in given.items():
            if tensor is not None and not bool(tensor.isfinite().all()):
                raise ValueError(f"{name} must be finite numbers")

    def __len__(self) -> int:
        first = next(t for t in (self.boxes, self.points, self.masks) if t is not None)
        return len(first)

    def split(self, size: int) -> "Iterator[Prompts]":
        """The prompts in order, at most `size` at once."""
        if size < 1:
            raise ValueError(f"prompts_per_batch must be at least 1, not {size}")
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            values = ((f.name, getattr(self, f.name)) for f in fields(self))
            yield Prompts(**{name: None if t is None else t[part] for name, t in values})


class PredictedMasks(NamedTuple):
    """What SAM says to N prompts, M masks each, on the CPU.

    Attributes:
        masks: bool [N, M, H, W] at the size of the original image.
        ious: float32 [N, M], the IoU that SAM predicts for each mask.
        low_resolution: float32 [N, M, 4 * rows, 4 * cols] logits; they can be prompts in turn.
    """

    masks: Tensor
    ious: Tensor
    low_resolution: Tensor


@torch.no_grad()
def encode_images(sam: "Sam", images: Sequence[NDArray[np.uint8]]) -> list[EncodedImage]:
    """Encode images as `SamPredictor` does, all in one batch.

    Args:
        sam: a Segment Anything model, its encoder swapped or not.
        images: uint8 [H, W, 3], RGB, of any sizes.

    Returns:
        One `EncodedImage` an image. On a canvas that is no square, an image of which the longest
        side would not fit is made smaller, until it fits.

    Raises:
        ValueError: an image of another shape or dtype.
    """
    if not images:
        return []
    resized = [_resized(sam, image) for image in images]  # [3, h, w]
    embeddings = sam.image_encoder(torch.stack([sam.preprocess(image) for image in resized]))
    return [
        EncodedImage(embedding, (small.shape[1], small.shape[2]), (image.shape[0], image.shape[1]))
        for embedding, small, image in zip(embeddings, resized, images, strict=True)
    ]


@torch.no_grad()
def predict_masks(
    sam: "Sam",
    encoded: EncodedImage,
    prompts: Prompts,
    multimask: bool = True,
    prompts_per_batch: int = 32,
) -> PredictedMasks:
    """Segment one encoded image at every prompt.

    Args:
        sam: the model that encoded it.
        encoded: the image.
        prompts: N of them.
        multimask: M = 3 masks a prompt, from part to whole; else M = 1.
        prompts_per_batch: prompts decoded at once; bounds the memory, not the result.
    """
    parts = []
    for logits, ious in _decode(sam, encoded, prompts, multimask, prompts_per_batch):
        parts.append(PredictedMasks(_upsampled(sam, encoded, logits), ious.cpu(), logits.cpu()))
    if not parts:
        count = sam.mask_decoder.num_multimask_outputs if multimask else 1
        rows, cols = encoded.embedding.shape[-2:]
        return PredictedMasks(
            torch.zeros(0, count, *encoded.original_size, dtype=torch.bool),
            torch.zeros(0, count),
            torch.zeros(0, count, 4 * rows, 4 * cols),
        )
    return PredictedMasks(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def best_masks(predicted: PredictedMasks) -> Tensor:
    """The mask with the highest predicted IoU of each prompt, bool [N, H, W]."""
    rows = torch.arange(len(predicted.ious))
    return predicted.masks[rows, predicted.ious.argmax(dim=1)]


@torch.no_grad()
def predict_best_masks(
    sam: "Sam", encoded: EncodedImage, prompts: Prompts, prompts_per_batch: int = 32
) -> tuple[Tensor, Tensor]:
    """`best_masks` of `predict_masks`, without bringing the other masks to the image's size.

    Returns:
        Masks bool [N, H, W] at the size of the original image, and their predicted IoUs
        float32 [N]; both on the CPU.
    """
    masks = [torch.zeros(0, *encoded.original_size, dtype=torch.bool)]
    scores = [torch.zeros(0)]
    for logits, ious in _decode(sam, encoded, prompts, True, prompts_per_batch):
        best = ious.max(dim=1)
        kept = logits[torch.arange(len(logits)), best.indices][:, None]  # [n, 1, 4 rows, 4 cols]
        masks.append(_upsampled(sam, encoded, kept)[:, 0])
        scores.append(best.values.cpu())
    return torch.cat(masks), torch.cat(scores)


def segment_boxes(
    sam: "Sam",
    encoded: EncodedImage,
    boxes: Sequence[tuple[float, float, float, float]],
    prompts_per_batch: int = 32,
) -> Iterator[tuple[NDArray[np.bool_], float]]:
    """Segment one encoded image at every box: x0, y0, x1, y1 in pixels of the original image.

    No more than `prompts_per_batch` masks are in memory.

    Yields:
        For each box the best of three masks [height, width] at the original size, and its
        predicted IoU.
    """
    for start in range(0, len(boxes), prompts_per_batch):
        chunk = torch.tensor(boxes[start : start + prompts_per_batch], dtype=torch.float32)
        masks, ious = predict_best_masks(sam, encoded, Prompts(boxes=chunk), prompts_per_batch)
        yield from zip(masks.numpy(), ious.tolist(), strict=True)


def _resized(sam: "Sam", image: NDArray[np.uint8]) -> Tensor:
    """The image as SAM's preprocessing takes it: uint8 [3, h, w], resized but not padded."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"images are uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    longest = int(sam.image_encoder.img_size)
    canvas = sam.prompt_encoder.input_image_size  # (height, width)
    scale = min(side / length for side, length in zip(canvas, image.shape, strict=False))
    resize = _resize_to(min(longest, int(scale * max(image.shape[:2]) + 0.5)))
    pixels = torch.from_numpy(resize.apply_image(image)).permute(2, 0, 1)
    return pixels.contiguous().to(sam.device)


def _resize_to(longest: int) -> Any:
    """SAM's own resizing of images and coordinates."""
    return require("segment_anything.utils.transforms", extra="sam").ResizeLongestSide(longest)


def _decode(
    sam: "Sam", encoded: EncodedImage, prompts: Prompts, multimask: bool, prompts_per_batch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batch by batch: mask logits [n, M, 4 * rows, 4 * cols] and predicted IoUs [n, M]."""
    resize = _resize_to(max(encoded.input_size))
    positions = sam.prompt_encoder.get_dense_pe()
    for part in prompts.split(prompts_per_batch):
        boxes = points = masks = None
        if part.boxes is not None:
            boxes = resize.apply_boxes_torch(part.boxes, encoded.original_size).to(sam.device)
        if part.points is not None and part.labels is not None:
            coords = resize.apply_coords_torch(part.points, encoded.original_size).to(sam.device)
            points = (coords, part.labels.to(sam.device))
        if part.masks is not None:
            rows, cols = (4 * side for side in encoded.embedding.shape[-2:])
            if part.masks.shape[1:] != (1, rows, cols):
                found = "x".join(str(side) for side in part.masks.shape[2:])
                raise ValueError(f"masks are {rows}x{cols} logits for this embedding, not {found}")
            masks = part.masks.float().to(sam.device)
        sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=masks)
        yield sam.mask_decoder(
            image_embeddings=encoded.embedding[None],
            image_pe=positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )


def _upsampled(sam: "Sam", encoded: EncodedImage, logits: Tensor) -> Tensor:
    """Masks, bool [n, M, H, W] on the CPU, of logits [n, M, 4 * rows, 4 * cols]."""
    full: Tensor = sam.postprocess_masks(logits, encoded.input_size, encoded.original_size)
    return (full > float(sam.mask_threshold)).cpu()
