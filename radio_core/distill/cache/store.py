"""The cache of a run's teachers: filled shard by shard, read at random."""

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from radio_core.distill.cache.codec import (
    OFFSET,
    SCALE,
    ErrorMeter,
    StoredError,
    decode,
    downsample,
    encode,
)
from radio_core.distill.cache.layout import IMAGES, CacheLayout
from radio_core.distill.cache.shards import (
    Shard,
    ShardNotes,
    Skipped,
    remove_abandoned,
    stack_rows,
    temporary_beside,
    write_shard,
)
from radio_core.distill.config import CacheDtype
from radio_core.distill.views import Views, ignore_interrupts, to_unit
from radio_core.models.fingerprint import weights_fingerprint
from radio_core.teachers import Teacher
from radio_core.vision import Output

CONFIRM_BYTES = 10 * 1000**3
_MAX_CHUNK = 32  # views that the teachers see at once
CHUNK_BYTES = 128 * 1000**2  # of one teacher's features
_OPEN_SHARDS = 256
_FORMAT = 2  # counted up when the same key would give other views or targets
Report = Callable[[int, int], None]
"""Told (views done, views in all)."""


class TeacherCache:
    """Views and teacher outputs of a run in memory-mapped shards.

    Training from it equals training with the teachers on the same views, up to the rounding of
    `dtype` and `downsample`, where all groups read crops of one size; crops of other sizes are
    resized from the stored ones instead of being read again.

    Args:
        folder: the cache lives in a sub-folder named after its key.
        teachers: adaptor name -> teacher.
        views: the crops.
        count: how many of them, from view 0.
        size: side in pixels of the crops that the teachers see.
        identity: names the data; together with crops, teachers and sizes it is the key.
        image_size: side in pixels at which the crops are kept for the student; None for `size`.
        dtype: how features are stored.
        downsample: features are averaged over squares of so many cells.
    """

    def __init__(
        self,
        folder: Path,
        teachers: Mapping[str, Teacher],
        views: Views,
        count: int,
        size: int,
        identity: str,
        *,
        image_size: int | None = None,
        dtype: CacheDtype = "float16",
        downsample: int = 1,
    ) -> None:
        self.teachers, self.views, self.count, self.size = dict(teachers), views, count, size
        self.image_size, self.dtype, self.downsample = image_size or size, dtype, downsample
        specs = {name: teacher.spec for name, teacher in teachers.items()}
        self.layout = CacheLayout.of(specs, self.image_size, dtype, downsample)
        self._about: dict[str, Any] = {
            "format": _FORMAT,
            "data": identity,
            "crop_scale": list(views.crop_scale),
            "seed": views.seed,
            "count": count,
            "size": size,
            "image_size": self.image_size,
            "dtype": dtype,
            "downsample": downsample,
            "teachers": {
                name: {"weights": weights_fingerprint(teacher), **asdict(teacher.spec)}
                for name, teacher in teachers.items()
            },
        }
        digest = hashlib.sha256(json.dumps(self._about, sort_keys=True).encode()).hexdigest()
        self.key = digest[:16]
        self.folder = folder / self.key
        self._open = functools.lru_cache(maxsize=_OPEN_SHARDS)(self._open_shard)

    @property
    def num_bytes(self) -> int:
        """Size of the whole cache on disk."""
        return self.count * self.layout.view_bytes

    @property
    def done(self) -> int:
        """Views in shards that are on disk."""
        return sum(len(self._views_of(index)) for index in self._present())

    def describe(self) -> str:
        """A line for people: size, place, and what costs how much of it."""
        whole, shares = self.layout.view_bytes, self.layout.shares()
        parts = ", ".join(f"{name} {100 * size / whole:.0f} %" for name, size in shares.items())
        line = (
            f"teacher outputs of {self.count} views take {self.num_bytes / 1e9:.2f} GB in "
            f"{self.folder} ({parts})"
        )
        if max(shares, key=lambda name: shares[name]) == IMAGES:
            line += (
                f"; the images cost most: {self.image_size} pixels is the largest resolution of "
                "the groups"
            )
        return line

    def fill(
        self,
        report: Report = lambda done, count: None,
        *,
        part: tuple[int, int] = (0, 1),
        workers: int = 0,
    ) -> list[Skipped]:
        """Compute the shards that are missing.

        Args:
            report: told the progress after every chunk of views.
            part: (r, n): only every n-th shard from shard r on, so that n processes fill one
                cache together.
            workers: processes that read and crop images.

        Returns:
            (path, reason) of all unreadable image files met so far, in this part.

        Raises:
            ValueError: a shard on disk is damaged, or a teacher's output cannot be stored.
            OSError: the disk is full; what is complete stays.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(self.folder)
        self._write_key()
        skipped: dict[Skipped, None] = {}
        for index in list(self._shards())[part[0] :: part[1]]:
            if not self._path(index).is_file():
                self._fill_shard(index, report, workers)
            skipped |= dict.fromkeys(self._open(index).notes.skipped)
        return list(skipped)

    def errors(self) -> dict[str, StoredError]:
        """Teacher -> how exact its stored features are, measured while they were stored."""
        notes = [self._open(index).notes for index in self._present()]
        found = {}
        for name in self.teachers:
            errors = [note.errors[name] for note in notes]
            if errors:
                rms = math.sqrt(sum(error.rms**2 for error in errors) / len(errors))
                found[name] = StoredError(rms, max(error.worst for error in errors))
        return found

    def images(self, views: Sequence[int]) -> Tensor:
        """[B, 3, S, S] uint8, S the cache's `image_size`."""
        return stack_rows(self._rows(views), IMAGES, self.layout.tensors)

    def outputs(
        self,
        views: Sequence[int],
        names: Sequence[str],
        device: torch.device | str = "cpu",
    ) -> dict[str, Output]:
        """Stored outputs of the named teachers in float32, decoded on `device`.

        Raises:
            FileNotFoundError: a shard is missing.
            ValueError: a shard is damaged.
        """
        rows, layout = self._rows(views), self.layout.tensors

        def read(name: str) -> Tensor:
            return stack_rows(rows, name, layout).to(device, non_blocking=True)

        outputs = {}
        for name in names:
            features = f"{name}.features"
            parts = {p: f"{features}.{p}" for p in (SCALE, OFFSET) if f"{features}.{p}" in layout}
            stored = {part: read(tensor) for part, tensor in {"": features, **parts}.items()}
            has_summary = f"{name}.summary" in layout
            summary = read(f"{name}.summary").float() if has_summary else None
            outputs[name] = Output(summary, decode(stored))
        return outputs

    def _shards(self) -> range:
        return range(-(-self.count // self.layout.shard_views))

    def _present(self) -> list[int]:
        names = {path.name for path in self.folder.glob("*.safetensors")}
        return [index for index in self._shards() if self._path(index).name in names]

    def _views_of(self, index: int) -> range:
        size = self.layout.shard_views
        return range(index * size, min((index + 1) * size, self.count))

    def _path(self, index: int) -> Path:
        return self.folder / f"shard-{index:06d}.safetensors"

    def _open_shard(self, index: int) -> Shard:
        views = len(self._views_of(index))
        return Shard(self._path(index), self.key, self.layout.tensors, views)

    def _rows(self, views: Sequence[int]) -> list[tuple[Shard, int]]:
        places = [divmod(view, self.layout.shard_views) for view in views]
        return [(self._open(index), row) for index, row in places]

    def _fill_shard(self, index: int, report: Report, workers: int) -> None:
        views = self._views_of(index)
        tensors = {
            name: torch.empty((len(views), *shape), dtype=dtype)
            for name, (dtype, shape) in self.layout.tensors.items()
        }
        meters = {name: ErrorMeter(t.spec.feature_dim) for name, t in self.teachers.items()}
        skipped: dict[Skipped, None] = {}
        before = self.done
        first = 0
        for images, skips in self._chunks(views, workers):
            rows = slice(first, first + len(images))
            tensors[IMAGES][rows] = self._kept(images)
            for name, teacher in self.teachers.items():
                output = teacher(to_unit(images.to(teacher.mean.device)))
                for tensor, values in self._stored(name, output, meters[name]).items():
                    tensors[tensor][rows] = values
            skipped |= dict.fromkeys(skips)
            first = rows.stop
            report(before + first, self.count)
        errors = {name: meter.result() for name, meter in meters.items()}
        write_shard(self._path(index), self.key, tensors, ShardNotes(errors, list(skipped)))

    def _chunks(self, views: range, workers: int) -> Iterator[tuple[Tensor, list[Skipped]]]:
        """Batches of crops [B, 3, size, size] uint8, and the files skipped for them."""
        cells = [t.spec.feature_dim * t.spec.grid()[0] ** 2 for t in self.teachers.values()]
        chunk = max(1, min(_MAX_CHUNK, CHUNK_BYTES // (4 * max(cells))))
        starts = range(0, len(views), chunk)
        loader = DataLoader(
            self.views,
            batch_sampler=[[(view, self.size) for view in views[i : i + chunk]] for i in starts],
            num_workers=workers,
            collate_fn=list,
            worker_init_fn=ignore_interrupts,
        )
        for items in loader:
            skipped = [entry for _, entries in items for entry in entries]
            yield torch.stack([image for image, _ in items]), skipped

    def _kept(self, images: Tensor) -> Tensor:
        """The crops as the student will get them, uint8."""
        if self.image_size == self.size:
            return images
        return (to_unit(images, self.image_size) * 255).round().byte()

    def _stored(self, name: str, output: Output, meter: ErrorMeter) -> dict[str, Tensor]:
        """A teacher's output under the names of the layout."""
        stored = {
            f"{name}.features.{part}".rstrip("."): values
            for part, values in self._encoded(output.features, meter).items()
        }
        if output.summary is not None:
            dtype, _ = self.layout.tensors[f"{name}.summary"]
            stored[f"{name}.summary"] = output.summary.to(dtype)
        for tensor, values in stored.items():
            if values.is_floating_point() and not values.isfinite().all():
                part = tensor.split(".")[1]
                raise ValueError(
                    f"teacher {name}: {part} that {self.dtype} cannot hold; cache them as float32"
                )
        return stored

    def _encoded(self, features: Tensor, meter: ErrorMeter) -> dict[str, Tensor]:
        stored = encode(downsample(features, self.downsample), self.dtype)
        meter.update(features, decode(stored))
        return stored

    def _write_key(self) -> None:
        """Say for people what the cache holds."""
        path = self.folder / "key.json"
        temporary = temporary_beside(path)
        temporary.write_text(json.dumps(self._about, indent=1))
        temporary.replace(path)
