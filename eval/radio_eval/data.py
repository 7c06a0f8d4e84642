"""Evaluation data: images read once, resized for each model, and encoded in batches."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from radio_core.data.folder import FolderError, ImageFiles, LabelledFolder
from radio_core.data.images import ImageSource
from radio_core.data.transforms import radio_resize, to_tensor
from radio_eval.eval_model import EvalModel, ImageFunction
from radio_eval.progress import Progress

ADE_SPLITS = {"train": "training", "val": "validation"}
IGNORED = 255
"""Label of pixels that count nowhere."""


class KeptImages:
    """An image source that decodes every file at most once and keeps the pixels (uint8) in memory.

    For sets that several models are evaluated on. Takes 3 bytes a pixel.
    """

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self._kept: dict[int, np.ndarray | None] = {}

    def __len__(self) -> int:
        return len(self._source)

    def load(self, index: int) -> Image.Image | None:
        """The image at `index` as 8-bit RGB, or None when it cannot be read."""
        if index not in self._kept:
            image = self._source.load(index)
            self._kept[index] = None if image is None else np.array(image, dtype=np.uint8)
        kept = self._kept[index]
        return None if kept is None else Image.fromarray(kept)


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images with one class each.

    Attributes:
        images: N images.
        labels: [N] int64, indices into `class_names`.
        class_names: readable names, as zero-shot sentences use them.
    """

    images: ImageSource
    labels: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")


class LabelMaps(Protocol):
    """Label maps by image number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor:
        """[H, W] uint8: the class of each pixel, 255 where it counts nowhere."""
        ...


@dataclass(frozen=True, kw_only=True)
class SegmentationImages:
    """Images with a label map each.

    Attributes:
        images: N images.
        labels: N label maps.
        class_names: names of the classes 0, 1, ...
    """

    images: ImageSource
    labels: LabelMaps
    class_names: tuple[str, ...]


class AdeLabelMaps:
    """The PNG label maps of the ADE20K layout, shifted: 0 -> 255 (ignored), k -> k - 1.

    Args:
        paths: one PNG an image.
        num_classes: classes after the shift.
    """

    def __init__(self, paths: Sequence[Path], num_classes: int) -> None:
        self._paths = list(paths)
        self._num_classes = num_classes
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        """[H, W] uint8 in [0, num_classes) or 255.

        Raises:
            FolderError: no such file, not a label map, or a class outside the range.
        """
        if index not in self._kept:
            self._kept[index] = self._read(self._paths[index])
        return self._kept[index]

    def _read(self, path: Path) -> Tensor:
        try:
            with Image.open(path, formats=["PNG"]) as image:
                stored = np.array(image)  # [H, W], palette indices stay indices
        except OSError as error:
            raise FolderError(f"label map {path} cannot be read: {error}") from error
        if stored.ndim != 2:
            raise FolderError(f"label map {path} must have one channel, not {stored.shape}")
        if int(stored.max()) > self._num_classes:
            raise FolderError(
                f"label map {path} holds value {int(stored.max())}, but classes.json names "
                f"{self._num_classes} classes (0 is unlabelled)"
            )
        shifted = np.where(stored == 0, IGNORED, stored.astype(np.int64) - 1)
        return torch.from_numpy(shifted.astype(np.uint8))


def read_classification(root: Path, split: str) -> LabelledImages:
    """Read the ImageFolder layout root/split/<class>/* with root/classnames.json.

    Raises:
        FolderError: missing, closed or empty folders, or unknown class folders.
    """
    folder = LabelledFolder(root, split)
    return LabelledImages(
        images=folder.images,
        labels=torch.tensor(folder.labels, dtype=torch.long),
        class_names=tuple(folder.class_names),
    )


def read_templates(root: Path) -> tuple[str, ...] | None:
    """The zero-shot sentences of root/templates.json (a list of strings with "{}"), if it is there.

    Raises:
        FolderError: the file is not a list of strings.
    """
    path = root / "templates.json"
    if not path.is_file():
        return None
    templates = _read_json(path)
    if not isinstance(templates, list) or not all(isinstance(t, str) for t in templates):
        raise FolderError(f"{path} must hold a list of strings")
    return tuple(templates)


def read_ade(root: Path, split: str) -> SegmentationImages:
    """Read the ADE20K layout: images/{training,validation}, annotations/..., classes.json.

    classes.json lists the class names in the order of the labels 1, 2, ... .

    Args:
        root: the data set's folder.
        split: "train" or "val".

    Raises:
        FolderError: missing folders or files, an image without its label map.
    """
    images = ImageFiles(root / "images" / ADE_SPLITS[split])
    folder = root / "annotations" / ADE_SPLITS[split]
    paths = [folder / Path(images.relative_path(i)).with_suffix(".png") for i in range(len(images))]
    for path in paths:
        if not path.is_file():
            raise FolderError(f"label map {path} is missing")
    names = _read_json(root / "classes.json")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FolderError(f"{root / 'classes.json'} must hold a list of class names")
    return SegmentationImages(
        images=images, labels=AdeLabelMaps(paths, len(names)), class_names=tuple(names)
    )


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FolderError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise FolderError(f"{path} is not valid JSON: {error}") from error


def prepare(image: Image.Image, model: EvalModel, *, whole: bool = False) -> Tensor:
    """Bring an 8-bit RGB image to the model's size.

    Models of any shape get RADIO's resize (shortest edge, both sides rounded to the step).
    Square-only models get a centre crop, or with `whole` the image squeezed to a square, which
    keeps every pixel for dense tasks.

    Returns:
        float32 [3, H, W] in [0, 1].
    """
    side = model.image_size
    if not model.square:
        return to_tensor(radio_resize(image, side, model.resize_step))
    if whole:
        return to_tensor(image.resize((side, side), Image.Resampling.BICUBIC))
    return to_tensor(radio_resize(image, (side, side), model.resize_step))


@dataclass(frozen=True, kw_only=True)
class Collected:
    """Outputs of a model for the images that could be read.

    Attributes:
        outputs: one tensor an image, in the order of `indices`.
        indices: [N] int64, the image numbers, ascending.
        unreadable: image numbers that were skipped.
    """

    outputs: tuple[Tensor, ...]
    indices: Tensor
    unreadable: tuple[int, ...]

    def stack(self) -> Tensor:
        """All outputs as one tensor [N, ...].

        Raises:
            ValueError: nothing could be read, or the outputs have several shapes.
        """
        if not self.outputs:
            raise ValueError("none of the images could be read")
        shapes = {tuple(output.shape) for output in self.outputs}
        if len(shapes) > 1:
            raise ValueError(
                f"images of several sizes gave outputs of {len(shapes)} shapes; "
                "this task needs images of one size"
            )
        return torch.stack(self.outputs)


@torch.no_grad()
def collect(
    function: ImageFunction,
    model: EvalModel,
    images: ImageSource,
    batch_size: int,
    progress: Progress,
    what: str,
    *,
    whole: bool = False,
) -> Collected:
    """Run a model over images, batching those of equal size.

    Args:
        function: images [B, 3, H, W] in [0, 1] -> [B, ...].
        model: says to which size images are brought.
        images: the images; unreadable ones are skipped and listed in the result.
        batch_size: images a call.
        progress: listener.
        what: name of this work for the listener.
        whole: squeeze instead of crop for square-only models; see `prepare`.
    """
    outputs: dict[int, Tensor] = {}
    waiting: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
    unreadable: list[int] = []

    def flush(batch: list[tuple[int, Tensor]]) -> None:
        results = function(torch.stack([tensor for _, tensor in batch]))
        outputs.update(zip((index for index, _ in batch), results.float().cpu(), strict=True))
        batch.clear()

    for index in range(len(images)):
        image = images.load(index)
        if image is None:
            unreadable.append(index)
        else:
            tensor = prepare(image, model, whole=whole)
            batch = waiting.setdefault(tuple(tensor.shape), [])
            batch.append((index, tensor))
            if len(batch) == batch_size:
                flush(batch)
        progress(what, index + 1, len(images))
    for batch in waiting.values():
        if batch:
            flush(batch)
    indices = sorted(outputs)
    return Collected(
        outputs=tuple(outputs[index] for index in indices),
        indices=torch.tensor(indices, dtype=torch.long),
        unreadable=tuple(unreadable),
    )
