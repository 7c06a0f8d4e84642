"""LLaVA's training data with images of mixed sizes, several images a sample, and clear errors."""

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from radio_core.data.images import UnreadableImage, load_rgb
from radio_llava.compat import require_llava
from radio_llava.images import IMAGE, RadioImageProcessor
from radio_llava.registration import IMAGE_TOKEN_INDEX, Truncation

IGNORED = -100  # label of the tokens that are not learnt
_SHOWN = 5  # samples that an error names
_TRIES = 10  # samples in a row with unreadable images, before it is no accident

Sample = Mapping[str, Any]


class CheckedDataset(Dataset[dict[str, Any]]):
    """LLaVA's own data set, looked through before training starts.

    A sample's "image" may be one file name, or a list of them with as many `<image>` in its text.
    `unreadable` and `unlearnt` count, by process, images that could not be read, and samples
    without any token to learn.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.samples: Sequence[Sample] = inner.list_data_dict
        self.processor: RadioImageProcessor = inner.data_args.image_processor
        self.unreadable = 0
        self.unlearnt = 0
        words = inner.tokenizer
        if words.bos_token is not None and words("a").input_ids[:1] != [words.bos_token_id]:
            warnings.warn(  # Llama's tokenizer had it of itself before transformers 5
                f"the tokenizer does not begin texts with {words.bos_token}, so LLaVA cannot learn "
                'from conversations of several turns: write "add_bos_token": true into the '
                "language model's tokenizer_config.json",
                stacklevel=2,
            )
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

        In place of a sample whose image cannot be read the next one is taken, with a warning.
        """
        tries = min(_TRIES, len(self))
        problem = ""
        for place in ((index + offset) % len(self) for offset in range(tries)):
            try:
                return self._item(place)
            except UnreadableImage as error:
                self.unreadable += 1
                problem = f"{_name(place, self.samples[place])}: {error}"
                told = f"{problem} (left out; {self.unreadable} unreadable so far)"
                warnings.warn(told, stacklevel=2)
        raise ValueError(f"{tries} samples in a row cannot be read; the last: {problem}")

    def _item(self, place: int) -> dict[str, Any]:
        sample = self.samples[place]
        train = require_llava("llava.train.train")
        data_args = self.inner.data_args
        given = sample.get("image")
        names = [given] if isinstance(given, str) else given or []
        folder = Path(data_args.image_folder or "")
        # as LLaVA and the evaluation do, pixels are taken as they are stored
        pictures = [load_rgb(folder / name, upright=False) for name in names]
        process = require_llava("llava.mm_utils").process_images
        images = list(process(pictures, self.processor, data_args)) if pictures else []
        conversation = copy.deepcopy(sample["conversations"])
        if isinstance(given, str):  # puts <image> first, on a line of its own
            (conversation,) = train.preprocess_multimodal([conversation], data_args)
        elif data_args.mm_use_im_start_end:
            for sentence in conversation:
                marked = f"<im_start>{IMAGE}<im_end>"
                sentence["value"] = sentence["value"].replace(IMAGE, marked)
        tokens = train.preprocess([conversation], self.inner.tokenizer, has_image=bool(images))
        if not bool((tokens["labels"][0] != IGNORED).any()):
            # LLaVA leaves out answers that it does not find where it expects them
            self.unlearnt += 1
            if self.unlearnt & (self.unlearnt - 1) == 0:  # tell of it whenever it has doubled
                warnings.warn(
                    f"{self.unlearnt} sample(s) so far have no answer to learn, such as "
                    f"{_name(place, sample)}: it is empty or cut off, or LLaVA's --version does "
                    "not fit this tokenizer (LLaVA prints 'tokenization mismatch')",
                    stacklevel=2,
                )
        if not images:
            images = [torch.zeros(3, self.processor.step, self.processor.step)]
        return {
            "input_ids": tokens["input_ids"][0],
            "labels": tokens["labels"][0],
            "image": images if isinstance(given, list) else images[0],
        }


class MixedSizes:
    """LLaVA's collator, for samples with any number of images of any sizes."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.truncation = Truncation()

    def __call__(self, instances: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The batch: texts padded, and "images" [B, 3, H, W], a list where sizes differ.

        An image whose `<image>` is cut off with the end of a too long text goes with it.
        """
        limit = self.inner.tokenizer.model_max_length
        images: list[Tensor] = []
        lengths = []
        for instance in instances:
            given, ids = instance["image"], instance["input_ids"]
            listed = given if isinstance(given, list) else [given]
            kept = int((ids[:limit] == IMAGE_TOKEN_INDEX).sum())
            images += listed[:kept] if kept else [torch.zeros_like(listed[0])]
            # LLaVA's tokenizer has cut off a text without images already
            lengths.append(limit + 1 if len(ids) == limit and not kept else len(ids))
        self.truncation.add(limit, lengths)
        texts = [{k: v for k, v in item.items() if k != "image"} for item in instances]
        batch: dict[str, Any] = self.inner(texts)
        same_size = len({image.shape for image in images}) == 1
        return batch | {"images": torch.stack(images) if same_size else images}


def check_samples(samples: Sequence[Sample], image_folder: str | Path | None) -> None:
    """Refuse samples of another form, with a wrong number of `<image>`, or without files."""
    if not samples:
        raise ValueError("the training data has no samples")
    listings: dict[str, set[str]] = {}
    problems = []
    for index, sample in enumerate(samples):
        if problem := _problem(sample, image_folder, listings):
            problems.append(f"{_name(index, sample)}: {problem}")
    if problems:
        shown = "\n  ".join(problems[:_SHOWN])
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError(
            f"{len(problems)} of {len(samples)} samples cannot be used:\n  {shown}{more}"
        )


def _problem(sample: Any, image_folder: str | Path | None, listings: dict[str, set[str]]) -> str:
    """What is wrong with a sample; "" for nothing. Every folder of images is listed once."""
    turns = sample.get("conversations") if isinstance(sample, dict) else None
    if not isinstance(turns, list) or not turns:
        return 'has no "conversations"'
    for turn in turns:
        if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
            return 'has a turn without "from" and "value"'
        if not isinstance(turn["value"], str):
            return "has a turn whose value is no text"
    image = sample.get("image", [])
    names = image if isinstance(image, list) else [image]
    if not all(isinstance(name, str) for name in names):
        return f'"image" is {image!r}: it must be a file name or a list of them, or not be there'
    if "image" in sample and not names:
        return "has an empty list of images"
    marks = [turn["value"].count(IMAGE) for turn in turns]
    # beside a single file name, LLaVA makes one mark of several in the same sentence
    found = sum(marks) if isinstance(sample.get("image"), list) else sum(map(bool, marks))
    if names and not found:
        return "has an image, but no <image> in its text"
    if found != len(names):
        return f"has {found} <image> in its text, but {len(names)} image(s)"
    for name in names:
        folder, file = os.path.split(os.path.join(image_folder or "", name))
        if folder not in listings:
            try:
                listings[folder] = set(os.listdir(folder or "."))
            except OSError:
                listings[folder] = set()
        if file not in listings[folder]:
            return f"no image file {os.path.join(folder, file)}"
    return ""


def _name(index: int, sample: Any) -> str:
    return f"sample {sample.get('id', index) if isinstance(sample, dict) else index}"
