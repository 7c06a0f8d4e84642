"""Tasks that look at the summaries of labelled images: how these are computed, and kept."""

import re
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from radio_core.data.images import UnreadableImage
from radio_core.open import open_model
from radio_core.processes import Processes
from radio_core.progress import Progress
from radio_core.vision import VisionModel
from radio_eval.data.classification import (
    Block,
    ClassificationSet,
    LabelledItem,
    Layout,
    read_splits,
)
from radio_eval.data.preprocess import How, Preprocess
from radio_eval.results import Blocks, Json, Skipped, StoredRows, digest
from radio_eval.runner import Context, Task

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Represent = Callable[[Tensor], Tensor]
"""Images [B, 3, H, W] in [0, 1], on the model's device -> [B, D]."""

_LONGEST_SHAPE = 32
"""Longer side over shorter side of the images that are used: one line of pixels, brought to the
model's size, would fill the memory."""
_WAITING_BATCHES = 4
"""Images that wait for others of their shape, in batches; then the largest group goes as it is."""


@dataclass(frozen=True, kw_only=True)
class SummaryTask(Task):
    """What tasks on the summaries of labelled images take."""

    data: Path
    """Folder of the data set."""
    adaptor: str = ""
    """Adaptor of a RADIO model whose summary is used; the backbone's for kNN, and the first with a
    text tower for zero-shot, if none is named."""
    image_size: int | None = None
    """Side in pixels to which images are brought (the shortest one), rounded to a multiple of the
    model's step; the model's own by default."""
    preprocess: How = "auto"
    """How: "radio" scales the shortest edge and keeps the shape, "center-crop" also cuts out the
    middle square as open_clip does, "dinov2" does so after a resize to 8/7 of the size (256, 224).
    "auto" is "radio" for RADIO, and what its own library does for any other model."""
    layout: Layout = "auto"
    """"folders" (SPLIT/CLASS/*.jpg), "webdataset" (*SPLIT*.tar with .jpg and .cls); "auto" for what
    is there."""
    imagenet_labels: Switch = False
    """Tar shards hold ImageNet-1k's labels, so that they need no classnames.json."""
    batch_size: int = 16
    """Images a forward pass; those of one shape go together."""
    threads: int = 4
    """Threads that read and resize images while the model works."""
    amp: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the model (autocast). The protocol's is float32."""
    cache: Path = Path("runs/cache")
    """Folder where summaries are kept: the same model on the same data is not computed again, and
    an interrupted run goes on. Processes on several machines need one that all of them see."""
    cache_dtype: Literal["float32", "float16"] = "float32"
    """Of the summaries on disk; float16 takes half the space."""
    no_cache: Switch = False
    """Forget the summaries."""
    block_size: int = 2048
    """Images a file of the cache; an interrupted run repeats at most one file a process."""
    aside: ClassVar[frozenset[str]] = frozenset(
        ("data", "layout", "imagenet_labels", "batch_size", "threads", "cache", "no_cache")
    )
    reads: ClassVar[tuple[str, ...]] = ("train", "val")
    """Splits that the task needs."""
    readable: ClassVar[bool] = False
    """ImageNet's classes have names in place of their WordNet ids."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "threads", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    @cached_property
    def splits(self) -> dict[str, ClassificationSet]:
        """The splits by name, read once."""
        return read_splits(
            self.data,
            self.reads,
            self.layout,
            imagenet_labels=self.imagenet_labels,
            readable=self.readable,
        )

    def open_model(self, source: str, device: torch.device) -> VisionModel:
        """As `radio_core.open.open_model`, with the adaptor of the task."""
        return open_model(source, adaptor=self.adaptor, device=device)

    @cached_property
    def _identities(self) -> Json:
        return {name: split.identity() for name, split in self.splits.items()}

    def data_identity(self) -> Json:
        """Counts and hashes of each split, made once; None for data that has no files."""
        return self._identities

    @contextmanager
    def summaries(
        self,
        model: VisionModel,
        represent: Represent,
        split: str,
        output: str,
        context: Context,
    ) -> Iterator[StoredRows]:
        """Unit-length results of a model for all images of a split that can be read.

        They are in the cache, computed if they are missing; without a cache, or for data that
        cannot be told from other data, they are gone when the context ends.

        Args:
            model: for its size of images, its device and its fingerprint.
            represent: what is computed of its images.
            split: name of the split.
            output: name of what `represent` gives, for the identity.
            context: whose processes share the blocks, and which hears of unreadable files.

        Raises:
            ValueError: none of the images can be read, results that are not finite, or a cache
                that is damaged.
        """
        processes, data = context.processes, self.splits[split]
        preprocess = Preprocess.of(model, self.image_size, self.preprocess)
        context.parameters["images"] = preprocess.to_json()
        if self.image_size not in (None, preprocess.size):
            context.note(
                f"images have {preprocess.size} pixels instead of {self.image_size}: a multiple of "
                f"the model's step, {preprocess.step}"
            )
        identity = None
        if not self.no_cache and (files := self._identities[split]) is not None:
            identity = {
                "model": model.spec.name,
                "weights": model.fingerprint(),
                "output": output,
                "images": preprocess.to_json(),
                "precision": self.amp,
                "stored_dtype": self.cache_dtype,
                "block_size": self.block_size,
                "data": files,
            }
            context.note(f"summaries are kept in {self.cache} (--no-cache forgets them)")
        blocks = data.blocks(self.block_size)
        with self._folder(model.spec.name, identity, processes) as folder:
            dtype = getattr(torch, self.cache_dtype)
            store = Blocks(folder, identity or {}, len(blocks), dtype)
            share = processes.share(processes.broadcast(store.missing()))
            tick = _ticks(
                context.progress,
                f"{self.name} {split} images",
                [blocks[number].count for number in share],
            )
            read, encode = partial(_read, preprocess), partial(_encode, model, represent, self.amp)
            with ThreadPoolExecutor(self.threads) as pool:
                for number in share:
                    found = _run_block(blocks[number], read, encode, self.batch_size, pool, tick)
                    _check_finite(found, model.spec.name, self.amp)
                    store.write(number, *found)
                    tick(of_block=True)
            processes.gather(None, patient=True)
            stored = store.read()
            context.skipped[f"{split} images"] = Skipped(stored.skipped)
            if len(stored) == 0:
                name, why = next(iter(stored.skipped.items()), ("", "there are none"))
                raise ValueError(
                    f"none of the images could be read: {f'{name}: ' if name else ''}{why}"
                )
            yield stored
            processes.gather(None, patient=True)

    @contextmanager
    def _folder(self, name: str, identity: Json | None, processes: Processes) -> Iterator[Path]:
        """The folder of these summaries in the cache, or one that is removed afterwards."""
        if identity is not None:
            slug = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60]
            yield self.cache / f"{slug}-{digest(identity)}"
            return
        made = tempfile.mkdtemp(prefix="radio-summaries-") if processes.first else None
        folder = Path(processes.broadcast(made))
        try:
            yield folder
        finally:
            if processes.first:
                shutil.rmtree(folder, ignore_errors=True)


def _ticks(progress: Progress, what: str, counts: Sequence[int | None]) -> Callable[..., None]:
    """Progress in images, or in blocks where the number of images is not known."""
    known = [count for count in counts if count is not None]
    in_blocks, done = len(known) < len(counts), 0
    total = len(counts) if in_blocks else sum(known)

    def tick(*, of_block: bool) -> None:
        nonlocal done
        if of_block == in_blocks:
            done += 1
            progress(what, done, total)

    return tick


def _run_block(
    block: Block,
    read: Callable[[LabelledItem], Tensor],
    encode: Represent,
    batch_size: int,
    pool: ThreadPoolExecutor,
    tick: Callable[..., None],
) -> tuple[Tensor, Tensor, list[str], dict[str, str]]:
    """Run a model over a block, batching images of equal shape.

    Returns:
        features [n, D], labels [n], n names; name -> reason of what could not be read.
    """
    results: dict[int, Tensor] = {}
    waiting: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
    items: list[LabelledItem] = []
    skipped: dict[str, str] = {}

    def flush(batch: list[tuple[int, Tensor]]) -> None:
        encoded = encode(torch.stack([image for _, image in batch]))
        results.update(zip((number for number, _ in batch), encoded, strict=True))
        batch.clear()

    try:
        for item, image in _read_ahead(read, block.items(), pool, 2 * batch_size):
            tick(of_block=False)
            if isinstance(image, UnreadableImage):
                skipped[item.name] = image.reason
                continue
            batch = waiting.setdefault(tuple(image.shape), [])
            batch.append((len(items), image))
            items.append(item)
            if len(batch) == batch_size:
                flush(batch)
            elif sum(map(len, waiting.values())) >= _WAITING_BATCHES * batch_size:
                flush(max(waiting.values(), key=len))
    except UnreadableImage as error:  # the rest of a tar shard
        skipped[str(error.path)] = error.reason
    for batch in filter(None, waiting.values()):
        flush(batch)
    return (
        torch.stack([results[n] for n in range(len(items))]) if items else torch.zeros(0, 0),
        torch.tensor([item.label for item in items], dtype=torch.long),
        [item.name for item in items],
        skipped,
    )


def _read_ahead(
    read: Callable[[LabelledItem], Tensor],
    items: Iterator[LabelledItem],
    pool: ThreadPoolExecutor,
    count: int,
) -> Iterator[tuple[LabelledItem, Tensor | UnreadableImage]]:
    """The items in order with their images or why there is none, `count` being read ahead."""

    def attempt(item: LabelledItem) -> Tensor | UnreadableImage:
        try:
            return read(item)
        except UnreadableImage as error:
            return error

    begun: deque[tuple[LabelledItem, Future[Tensor | UnreadableImage]]] = deque()
    broken: UnreadableImage | None = None
    try:
        for item in items:
            begun.append((item, pool.submit(attempt, item)))
            if len(begun) > count:
                first, image = begun.popleft()
                yield first, image.result()
    except UnreadableImage as error:  # after those that have begun
        broken = error
    for item, image in begun:
        yield item, image.result()
    if broken is not None:
        raise broken


def _read(preprocess: Preprocess, item: LabelledItem) -> Tensor:
    image = item.read()
    if max(image.size) > _LONGEST_SHAPE * min(image.size):
        shape = f"{image.width} x {image.height} pixels"
        raise UnreadableImage(item.name, f"too large: {shape} get too long when resized")
    return preprocess(image)


@torch.no_grad()
def _encode(model: VisionModel, represent: Represent, amp: str, images: Tensor) -> Tensor:
    """[B, 3, H, W] in [0, 1] -> [B, D] float32 of unit length, on the CPU."""
    with torch.autocast(model.device.type, getattr(torch, amp), enabled=amp != "float32"):
        encoded = represent(images.to(model.device, non_blocking=True))
    return F.normalize(encoded.float(), dim=1).cpu()


def _check_finite(
    found: tuple[Tensor, Tensor, list[str], dict[str, str]], model: str, amp: str
) -> None:
    features, _, names, _ = found
    bad = (~features.isfinite()).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"model {model!r} gives a summary that is not finite for {names[bad[0]]}"
            + (": try --amp float32" if amp == "float16" else "")
        )
