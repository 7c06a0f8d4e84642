"""Compute the summaries of a data split, or find them where an earlier run left them."""

import hashlib
import json
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from radio_core.data.images import UnreadableImage
from radio_eval.classification.blocks import Block, ClassificationSet, LabelledItem
from radio_eval.data import prepare
from radio_eval.eval_model import EvalModel, ImageFunction
from radio_eval.processes import Processes
from radio_eval.progress import Progress
from radio_eval.summaries.store import Shard, StoredSummaries, SummaryStore

Precision = Literal["float32", "bfloat16", "float16"]
StoredDtype = Literal["float32", "float16"]

_LONGEST_SHAPE = 32
"""Longer side over shorter side of the images that are used: one line of pixels, brought to the
model's size, would fill the memory."""

_WAITING_BATCHES = 4
"""Images that wait for others of their shape, in batches; then the largest group goes as it is."""


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """How summaries are computed and kept.

    Attributes:
        batch_size: images a forward pass; those of one shape go together.
        threads: that read and resize images while the model works.
        precision: autocast of the model; float32 is none.
        stored_dtype: of the summaries on disk.
        block_size: images a file; an interrupted run repeats at most one file a process.
        cache: folder that later runs find the summaries in; None forgets them.
        processes: that share the work.
    """

    batch_size: int = 16
    threads: int = 4
    precision: Precision = "float32"
    stored_dtype: StoredDtype = "float32"
    block_size: int = 2048
    cache: Path | None = None
    processes: Processes = field(default_factory=Processes)

    def __post_init__(self) -> None:
        for name in ("batch_size", "threads", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def parameters(self, model: EvalModel) -> dict[str, Any]:
        """What decides the summaries of a model besides its weights, as JSON types."""
        return {
            "images": model.resizing(),
            "precision": self.precision,
            "stored_dtype": self.stored_dtype,
            "block_size": self.block_size,
        }


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A function of a model whose results are wanted for a whole split.

    Attributes:
        function: images -> [B, D].
        model: that it belongs to.
        output: what it gives: "summary", or "image_text" for the space shared with texts.
    """

    function: ImageFunction
    model: EvalModel
    output: str


@contextmanager
def summaries(
    encoder: Encoder,
    data: ClassificationSet,
    extraction: Extraction,
    progress: Progress,
    what: str,
) -> Iterator[StoredSummaries]:
    """The unit-length results of an encoder for all images of a split that can be read.

    Args:
        encoder: of the model.
        data: the split.
        extraction: how, and where they are kept. Without a cache, or for a model or data that
            cannot be told from others, they are gone when the context ends.
        progress: listener.
        what: name of this work for the listener.

    Raises:
        ValueError: none of the images can be read, results that are not finite, or a cache that
            is damaged.
    """
    blocks = data.blocks(extraction.block_size)
    identity = _identity(encoder, data, extraction)
    with _folder(extraction, encoder.model.name, identity) as folder:
        dtype = getattr(torch, extraction.stored_dtype)
        store = SummaryStore(folder, identity or {}, len(blocks), dtype)
        processes = extraction.processes
        missing = processes.from_first(store.missing() if processes.is_first else None)
        share = processes.share(missing)
        with ThreadPoolExecutor(extraction.threads) as pool:
            ticks = _Ticks(progress, what, [blocks[number].count for number in share])
            for number in share:
                store.write(number, _shard(encoder, blocks[number], extraction, pool, ticks))
                ticks.end_of_block()
        processes.wait()
        stored = store.read()
        if len(stored) == 0:
            raise ValueError(f"none of the images could be read: {_first(stored.skipped)}")
        yield stored
        processes.wait()


def _identity(
    encoder: Encoder, data: ClassificationSet, extraction: Extraction
) -> dict[str, Any] | None:
    """What the summaries depend on; None if that is not known, or does not matter."""
    files = data.identity()
    if extraction.cache is None or files is None:
        return None
    weights = encoder.model.fingerprint()
    if weights is None:
        return None
    return {
        "model": encoder.model.name,
        "weights": weights,
        "output": encoder.output,
        **extraction.parameters(encoder.model),
        "data": files,
    }


@contextmanager
def _folder(extraction: Extraction, name: str, identity: dict[str, Any] | None) -> Iterator[Path]:
    """The folder of these summaries in the cache, or one that is removed afterwards."""
    if extraction.cache is not None and identity is not None:
        text = json.dumps(identity, sort_keys=True)
        slug = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60]
        yield extraction.cache / f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        return
    processes = extraction.processes
    made = tempfile.mkdtemp(prefix="radio-summaries-") if processes.is_first else None
    folder = Path(processes.from_first(made))
    try:
        yield folder
    finally:
        if processes.is_first:
            shutil.rmtree(folder, ignore_errors=True)


class _Ticks:
    """Progress in images, or in blocks where the number of images is not known."""

    def __init__(self, progress: Progress, what: str, counts: list[int | None]) -> None:
        known = [count for count in counts if count is not None]
        self._in_images = len(known) == len(counts)
        self._total = sum(known) if self._in_images else len(counts)
        self._progress, self._what, self._done = progress, what, 0

    def image(self) -> None:
        """One more image is read."""
        if self._in_images:
            self._add()

    def end_of_block(self) -> None:
        """One more block is written."""
        if not self._in_images:
            self._add()

    def _add(self) -> None:
        self._done += 1
        self._progress(self._what, self._done, self._total)


def _shard(
    encoder: Encoder,
    block: Block,
    extraction: Extraction,
    pool: ThreadPoolExecutor,
    ticks: _Ticks,
) -> Shard:
    """Run the model over a block, batching images of equal shape."""
    results: dict[int, Tensor] = {}
    waiting: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
    items: list[LabelledItem] = []
    skipped: dict[str, str] = {}

    def flush(batch: list[tuple[int, Tensor]]) -> None:
        encoded = _encode(encoder, torch.stack([image for _, image in batch]), extraction)
        results.update(zip((number for number, _ in batch), encoded, strict=True))
        batch.clear()

    def read(item: LabelledItem) -> Tensor:
        image = item.read()
        if max(image.size) > _LONGEST_SHAPE * min(image.size):
            shape = f"{image.width} x {image.height} pixels"
            raise UnreadableImage(item.name, f"too large: {shape} get too long when resized")
        return prepare(image, encoder.model)

    try:
        for item, image in _ahead(read, block, pool, 2 * extraction.batch_size):
            ticks.image()
            if isinstance(image, UnreadableImage):
                skipped[item.name] = image.reason
                continue
            batch = waiting.setdefault(tuple(image.shape), [])
            batch.append((len(items), image))
            items.append(item)
            if len(batch) == extraction.batch_size:
                flush(batch)
            elif sum(map(len, waiting.values())) >= _WAITING_BATCHES * extraction.batch_size:
                flush(max(waiting.values(), key=len))
    except UnreadableImage as error:  # the rest of a tar shard
        skipped[str(error.path)] = error.reason
    for batch in waiting.values():
        if batch:
            flush(batch)
    features = [results[number] for number in range(len(items))]
    for item, row in zip(items, features, strict=True):
        if not row.isfinite().all():
            raise ValueError(
                f"model {encoder.model.name!r} gives a summary that is not finite for {item.name}"
                + (": try --amp float32" if extraction.precision == "float16" else "")
            )
    return Shard(
        features=torch.stack(features) if features else torch.zeros(0, 0),
        labels=torch.tensor([item.label for item in items], dtype=torch.long),
        names=[item.name for item in items],
        skipped=skipped,
    )


@torch.no_grad()
def _encode(encoder: Encoder, images: Tensor, extraction: Extraction) -> Tensor:
    """[B, 3, H, W] in [0, 1] -> [B, D] float32 of unit length, on the CPU."""
    device = encoder.model.device
    images = images.to(device, non_blocking=True)
    if extraction.precision == "float32":
        encoded = encoder.function(images)
    else:
        with torch.autocast(device.type, getattr(torch, extraction.precision)):
            encoded = encoder.function(images)
    return F.normalize(encoded.float(), dim=1).cpu()


def _ahead(
    read: Callable[[LabelledItem], Tensor],
    items: Iterable[LabelledItem],
    pool: ThreadPoolExecutor,
    count: int,
) -> Iterator[tuple[LabelledItem, Tensor | UnreadableImage]]:
    """The items in order with their images or why there is none, `count` being read ahead."""

    def attempt(item: LabelledItem) -> Tensor | UnreadableImage:
        try:
            return read(item)
        except UnreadableImage as error:
            return error

    remaining = iter(items)
    begun: deque[tuple[LabelledItem, Future[Tensor | UnreadableImage]]] = deque()
    broken: UnreadableImage | None = None

    def begin(number: int) -> None:
        nonlocal broken
        try:
            for item in islice(remaining, number):
                begun.append((item, pool.submit(attempt, item)))
        except UnreadableImage as error:
            broken = error

    begin(count)
    while begun:
        item, image = begun.popleft()
        yield item, image.result()
        if broken is None:
            begin(1)
    if broken is not None:
        raise broken


def _first(skipped: dict[str, str]) -> str:
    name, reason = next(iter(skipped.items()), ("", "there are none"))
    return f"{name}: {reason}" if name else reason
