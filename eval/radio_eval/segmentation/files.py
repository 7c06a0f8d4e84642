"""Score a folder of predicted label maps against a folder of true ones, without a model."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from radio_core.data.folder import FolderError
from radio_eval.data import IGNORED
from radio_eval.progress import Progress, silent
from radio_eval.segmentation.metrics import ConfusionMatrix, SegmentationScores

_GREY_STEP = {"L;2": 85, "L;4": 17}
"""Pillow spreads the values of grey PNGs of 2 and 4 bits over 0 to 255 by these factors."""
MAX_CLASSES = 4096
"""Most classes: every pair of them is counted."""


def score_label_maps(
    predictions: Path,
    labels: Path,
    num_classes: int,
    *,
    ignore_index: int = IGNORED,
    reduce_zero_label: bool = False,
    progress: Progress = silent,
) -> SegmentationScores:
    """Compare PNG label maps, summed over the whole set as mmseg does.

    Args:
        predictions: folder of PNGs with one channel (8 or 16 bits, or a palette) whose pixel
            values are classes from 0 to `num_classes` - 1. Pixels whose label is ignored may hold
            anything.
        labels: folder of PNGs of the same stems and sizes; other files are not looked at.
        num_classes: number of classes, from 1 to `MAX_CLASSES`.
        ignore_index: label of the pixels that count nowhere, as it is stored.
        reduce_zero_label: labels (not predictions) are shifted as ADE20K wants it: 0 counts
            nowhere either, and every other k becomes k - 1.
        progress: listener.

    Raises:
        FolderError: a missing or empty folder, a file without its partner, two files of one stem,
            a file that is no label map, sizes that differ, or a class outside the range; the
            message names the files.
        ValueError: a bad `num_classes`, or no labelled pixel in the whole set.
    """
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ValueError(f"num_classes {num_classes} must be from 1 to {MAX_CLASSES}")
    pairs = _paired(_by_stem(predictions), _by_stem(labels), predictions, labels)
    confusion = ConfusionMatrix(num_classes, ignore_index)
    for done, (prediction, label) in enumerate(pairs, start=1):
        predicted, truth = read_label_map(prediction), read_label_map(label)
        ignored = truth == ignore_index
        if reduce_zero_label:
            ignored, truth = ignored | (truth == 0), truth - 1
        try:
            confusion.update(predicted, truth, ignored)
        except ValueError as error:
            raise FolderError(f"{prediction} against {label}: {error}") from error
        progress("label maps", done, len(pairs))
    return confusion.scores()


def read_label_map(path: Path) -> Tensor:
    """The pixel values [H, W] int64 of a PNG with one channel; palette indices stay indices.

    Raises:
        FolderError: it cannot be read, or has several channels.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            step = _GREY_STEP.get(str(image.tile[0][3]), 1) if image.tile else 1
            stored = np.array(image)
    except Exception as error:  # decoders raise nearly everything on broken files
        raise FolderError(f"label map {path} cannot be read: {error}") from error
    if stored.ndim != 2:
        raise FolderError(
            f"{path} is a colour picture of {stored.shape[2]} channels; a label map has one, "
            "whose pixel values are class numbers"
        )
    return torch.from_numpy(stored.astype(np.int64) // step)


def _by_stem(folder: Path) -> dict[str, Path]:
    """The PNGs of a folder by their names without the ending, in order."""
    try:
        paths = [p for p in sorted(folder.iterdir()) if p.suffix.lower() == ".png" and p.is_file()]
    except OSError as error:
        raise FolderError(f"cannot read the folder {folder}: {error.strerror}") from error
    if not paths:
        raise FolderError(f"{folder} holds no PNG files; label maps are PNGs, side by side")
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise FolderError(f"{found[path.stem]} and {path} have the same name: remove one")
        found[path.stem] = path
    return found


def _paired(
    predictions: dict[str, Path], labels: dict[str, Path], prediction_folder: Path, folder: Path
) -> list[tuple[Path, Path]]:
    """(prediction, label) of every stem, which must be in both folders."""
    for having, lacking, place in (
        (labels, predictions, prediction_folder),
        (predictions, labels, folder),
    ):
        alone = [path for stem, path in having.items() if stem not in lacking]
        if alone:
            raise FolderError(
                f"{len(alone)} of {len(having)} files have no partner in {place} "
                f"(the first: {alone[0]}); every stem must be in both folders"
            )
    return [(predictions[stem], path) for stem, path in labels.items()]
