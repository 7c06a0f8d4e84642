"""LLaVA's training data with images of mixed sizes, several images a sample, and clear errors."""

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from radio_llava.compat import require_llava
from radio_llava.images import RadioImageProcessor
from radio_llava.registration import IMAGE_TOKEN_INDEX
from radio_llava.truncation import Truncation

IMAGE_TOKEN = "<image>"
_SHOWN = 5  # samples that an error names

Sample = Mapping[str, Any]


class CheckedDataset(Dataset[dict[str, Any]]):
    """LLaVA's own data set, looked through before training starts.

    A sample's "image" may be one file name, or a list of them with as many `<image>` in its text.

    Args:
        inner: LLaVA's `LazySupervisedDataset`.

    Raises:
        ValueError: samples whose images and `<image>` differ in number, or whose image files are
            missing; they are counted, and the first are named.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.samples: Sequence[Sample] = inner.list_data_dict
        self.processor: RadioImageProcessor = inner.data_args.image_processor
        check_samples(self.samples, inner.data_args.image_folder)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def lengths(self) -> Any:
        """Length of every sample in words, as LLaVA estimates it."""
        return self.inner.lengths

    @property
    def modality_lengths(self) -> Any:
        """The same, negative for samples without an image."""
        return self.inner.modality_lengths

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Token ids and labels [L], and the images: a tensor [3, H, W] or a list of them.

        Raises:
            ValueError: an image cannot be read; the sample and the file are named.
        """
        sample = self.samples[index]
        try:
            if isinstance(sample.get("image"), list):
                return self._several(sample)
            item: dict[str, Any] = self.inner[index]
        except OSError as error:
            raise ValueError(f"{_name(index, sample)}: {sample['image']}: {error}") from error
        if "image" not in sample and "image" in item:
            item["image"] = torch.zeros(3, self.processor.step, self.processor.step)
        return item

    def _several(self, sample: Sample) -> dict[str, Any]:
        """A sample with a list of images; its text stays as it is written."""
        train = require_llava("llava.train.train")
        mm_utils = require_llava("llava.mm_utils")
        data_args = self.inner.data_args
        folder = Path(data_args.image_folder or "")
        images = [Image.open(folder / name).convert("RGB") for name in sample["image"]]
        conversation = copy.deepcopy(sample["conversations"])
        if data_args.mm_use_im_start_end:
            for sentence in conversation:
                marked = f"<im_start>{IMAGE_TOKEN}<im_end>"
                sentence["value"] = sentence["value"].replace(IMAGE_TOKEN, marked)
        tokens = train.preprocess([conversation], self.inner.tokenizer, has_image=True)
        return {
            "input_ids": tokens["input_ids"][0],
            "labels": tokens["labels"][0],
            "image": list(mm_utils.process_images(images, self.processor, data_args)),
        }


class MixedSizes:
    """LLaVA's collator, for samples with any number of images of any sizes.

    Args:
        inner: LLaVA's `DataCollatorForSupervisedDataset`.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.truncation = Truncation()

    def __call__(self, instances: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The batch: texts padded, and "images" [B, 3, H, W], a list where sizes differ.

        An image whose `<image>` is cut off with the end of a too long text goes with it. What is
        cut off is counted, see `Truncation`.
        """
        limit = self.inner.tokenizer.model_max_length
        self.truncation.add(limit, [_length(item["input_ids"], limit) for item in instances])
        images: list[Tensor] = []
        for instance in instances:
            given = instance["image"]
            listed = given if isinstance(given, list) else [given]
            kept = int((instance["input_ids"][:limit] == IMAGE_TOKEN_INDEX).sum())
            images += listed[:kept] if kept else [torch.zeros_like(listed[0])]
        texts = [{k: v for k, v in item.items() if k != "image"} for item in instances]
        batch: dict[str, Any] = self.inner(texts)
        same_size = len({image.shape for image in images}) == 1
        return batch | {"images": torch.stack(images) if same_size else images}


def check_samples(samples: Sequence[Sample], image_folder: str | Path | None) -> None:
    """Compare every sample's images with its `<image>`, and look whether the files are there.

    Args:
        samples: as LLaVA's JSON files have them.
        image_folder: file names are relative to it.

    Raises:
        ValueError: something does not fit; the samples are counted, and the first are named.
    """
    listings: dict[str, set[str]] = {}
    problems = []
    for index, sample in enumerate(samples):
        problem = _mismatch(sample) or _missing_file(sample, image_folder, listings)
        if problem:
            problems.append(f"{_name(index, sample)}: {problem}")
    if problems:
        shown = "\n  ".join(problems[:_SHOWN])
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError(
            f"{len(problems)} of {len(samples)} samples cannot be used:\n  {shown}{more}"
        )


def _length(input_ids: Tensor, limit: int) -> int:
    """Tokens of a text, before LLaVA's tokenizer has cut it off where it has no image."""
    cut_already = len(input_ids) == limit and not bool((input_ids == IMAGE_TOKEN_INDEX).any())
    return limit + 1 if cut_already else len(input_ids)


def _mismatch(sample: Sample) -> str:
    """What is wrong with the number of a sample's images; "" if nothing is."""
    texts = [sentence["value"] for sentence in sample["conversations"]]
    image = sample.get("image")
    if isinstance(image, list):
        found = sum(text.count(IMAGE_TOKEN) for text in texts)
    else:  # LLaVA makes one of several in the same sentence
        found = sum(IMAGE_TOKEN in text for text in texts)
    given = len(image) if isinstance(image, list) else int("image" in sample)
    if found == given != 0 or (not found and image is None):
        return ""
    if not found:
        return (
            "has an image, but no <image> in its text" if given else "has an empty list of images"
        )
    return f"has {found} <image> in its text, but {given} image(s)"


def _missing_file(
    sample: Sample, image_folder: str | Path | None, listings: dict[str, set[str]]
) -> str:
    """Which of a sample's files is missing; every folder is listed once."""
    image = sample.get("image", [])
    for name in image if isinstance(image, list) else [image]:
        folder, file = os.path.split(os.path.join(image_folder or "", name))
        if folder not in listings:
            try:
                listings[folder] = set(os.listdir(folder or "."))
            except OSError:
                listings[folder] = set()
        if file not in listings[folder]:
            return f"no image file {os.path.join(folder, file)}"
    return ""


def _name(index: int, sample: Sample) -> str:
    return f"sample {sample.get('id', index)}"
