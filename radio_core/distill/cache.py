"""Teacher outputs computed once and kept on disk, in shards that several processes can fill.

A store of its own, because it is written shard by shard by many processes that may be killed, and
read at random, a few rows of many tensors at a time, straight from the mapped files.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from radio_core.data.sources import data_identity
from radio_core.distill.config import CacheDtype, TargetsConfig
from radio_core.distill.views import Skipped, Views, to_unit
from radio_core.models.fingerprint import weights_fingerprint
from radio_core.progress import Progress, silent
from radio_core.teachers.base import Teacher
from radio_core.vision import ModelSpec, Output

CONFIRM_BYTES = 10 * 1000**3
"""A cache larger than this is filled only when the user has said so."""
CHUNK_BYTES = 128 * 1000**2
"""Of one teacher's features, for views that the teachers see at once."""

_MAX_CHUNK = 32  # views that the teachers see at once
_SHARD_BYTES = 256 * 1000**2  # of which about so much is in memory while a shard is written
_MAX_SHARD_VIEWS = 256
_OPEN_SHARDS = 256
_ABANDONED_SECONDS = 3600
_FORMAT = 2  # counted up when the same key would give other views or targets
_FLOATS: dict[CacheDtype, torch.dtype] = {"float16": torch.float16, "float32": torch.float32}
_LEVELS = 254  # of int8, -127 … 127: the middle of a channel's range is level 0
_LEAST_SPREAD = 1e-6  # of a channel, relative to its size: below it a channel is constant
_IMAGES, _SCALE, _OFFSET = "images", "scale", "offset"
_FIX = "delete it and run the same command again, which computes what is missing"


@dataclass(frozen=True)
class StoredError:
    """How far stored features are from the teacher's own, in standard deviations of a channel.

    Attributes:
        rms: root mean square over all channels.
        worst: root mean square of the worst channel.
    """

    rms: float
    worst: float

    def __str__(self) -> str:
        return (
            f"error {100 * self.rms:.3g} % of a channel's standard deviation "
            f"(worst channel: {100 * self.worst:.3g} %)"
        )


def encode(features: Tensor, dtype: CacheDtype) -> dict[str, Tensor]:
    """Feature maps as they are stored.

    Args:
        features: [B, C, h, w] float32, finite.
        dtype: "int8" maps the range of each channel of each view to 255 levels, so that no value
            is off by more than 1/508 of that range.

    Returns:
        "" -> the map in `dtype`; for int8 also "scale" and "offset", [B, C] float32.
    """
    if dtype != "int8":
        return {"": features.to(_FLOATS[dtype])}
    low, high = features.amin(dim=(2, 3)), features.amax(dim=(2, 3))  # [B, C]
    offset, scale = (low + high) / 2, (high - low) / _LEVELS
    levels = (features - offset[..., None, None]) / scale.clamp(min=1e-30)[..., None, None]
    return {"": levels.round().clamp(-127, 127).to(torch.int8), _SCALE: scale, _OFFSET: offset}


def decode(stored: Mapping[str, Tensor]) -> Tensor:
    """The inverse of `encode`: [B, C, h, w] float32 on the device of what is stored."""
    features = stored[""].float()
    if _SCALE in stored:
        scale, offset = (stored[part][..., None, None] for part in (_SCALE, _OFFSET))
        features = torch.addcmul(offset, features, scale)
    return features


def downsample(features: Tensor, factor: int) -> Tensor:
    """Average a map [B, C, h, w] over squares of `factor` cells; sides are rounded up."""
    if factor == 1:
        return features
    rows, cols = (-(-side // factor) for side in features.shape[-2:])
    return F.adaptive_avg_pool2d(features, (rows, cols))


class ErrorMeter:
    """Accumulates what training sees against what the teacher said, channel by channel."""

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._sums = torch.zeros(3, channels, dtype=torch.float64)  # of x, x**2, error**2

    def update(self, features: Tensor, restored: Tensor) -> None:
        """Add maps [B, C, h, w] and what is read back; a smaller map is resized as in the loss."""
        if restored.shape != features.shape:
            restored = F.interpolate(restored, size=features.shape[-2:], mode="bilinear")
        parts = (features, features.square(), (restored - features).square())
        sums = [part.sum((0, 2, 3), dtype=torch.float64) for part in parts]
        self._count += features[:, 0].numel()
        self._sums += torch.stack(sums).cpu()

    def result(self) -> StoredError:
        """The error so far; constant channels do not count."""
        total, squares, errors = self._sums
        spread = squares - total.square() / self._count
        varies = spread > _LEAST_SPREAD**2 * squares
        ratios = torch.where(varies, errors / spread.clamp(min=1e-300), 0.0)
        return StoredError(float(ratios.mean().sqrt()), float(ratios.max().sqrt()))


class CacheLayout:
    """What a cache holds of each view, and how large that is.

    Args:
        specs: adaptor name -> what is known of its teacher.
        image_size: side in pixels of the stored crops.
        config: how outputs are stored.

    Attributes:
        tensors: name -> (dtype, shape) of one view: "images" [3, S, S] uint8,
            "<teacher>.features" [C, h, w], and where there are such "<teacher>.features.scale" and
            ".offset" [C] (int8) and "<teacher>.summary" [D].
        shares: bytes of one view: "images", then each teacher.
        view_bytes: their sum.
        shard_views: views in one file: few enough that a file being written fits in memory.
    """

    def __init__(
        self, specs: Mapping[str, ModelSpec], image_size: int, config: TargetsConfig
    ) -> None:
        dtype = config.cache_dtype
        self.tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            _IMAGES: (torch.uint8, (3, image_size, image_size))
        }
        for name, spec in specs.items():
            side = -(-spec.grid()[0] // config.cache_downsample)
            stored = _FLOATS.get(dtype, torch.int8)
            self.tensors[f"{name}.features"] = (stored, (spec.feature_dim, side, side))
            for part in (_SCALE, _OFFSET) if dtype == "int8" else ():
                self.tensors[f"{name}.features.{part}"] = (torch.float32, (spec.feature_dim,))
            if spec.summary_dim is not None:
                summary = torch.float32 if dtype == "float32" else torch.float16
                self.tensors[f"{name}.summary"] = (summary, (spec.summary_dim,))
        self.shares: dict[str, int] = {}
        for tensor, (kind, shape) in self.tensors.items():
            owner, size = tensor.split(".")[0], kind.itemsize * math.prod(shape)
            self.shares[owner] = self.shares.get(owner, 0) + size
        self.view_bytes = sum(self.shares.values())
        self.shard_views = max(1, min(_MAX_SHARD_VIEWS, _SHARD_BYTES // self.view_bytes))


class TeacherCache:
    """Views and teacher outputs of a run in memory-mapped shards.

    Training from it equals training with the teachers on the same views, up to the rounding of
    the stored numbers, where all groups read crops of one size; crops of other sizes are resized
    from the stored ones instead of being read again.

    Args:
        folder: the cache lives in a sub-folder named after its key: data, crops, teachers, sizes.
        config: how many views, and how their outputs are stored.
        teachers: adaptor name -> teacher.
        views: the crops; the first ones are stored.
        size: side in pixels of the crops that the teachers see.
        image_size: side in pixels at which the crops are kept for the student.

    Attributes:
        count: views.
        layout: what is stored of each.
        folder: with the key.
        num_bytes: size of the whole cache on disk.
    """

    def __init__(
        self,
        folder: Path,
        config: TargetsConfig,
        teachers: Mapping[str, Teacher],
        views: Views,
        size: int,
        image_size: int,
    ) -> None:
        self.config, self.teachers, self.views = config, dict(teachers), views
        self.count, self.size, self.image_size = config.cached_views, size, image_size
        specs = {name: teacher.spec for name, teacher in teachers.items()}
        self.layout = CacheLayout(specs, image_size, config)
        self.num_bytes = self.count * self.layout.view_bytes
        self._about: dict[str, Any] = {
            "format": _FORMAT,
            "data": data_identity(views.source),
            "crop_scale": list(views.crop_scale),
            "seed": views.seed,
            "count": self.count,
            "size": size,
            "image_size": image_size,
            "dtype": config.cache_dtype,
            "downsample": config.cache_downsample,
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
    def done(self) -> int:
        """Views in shards that are on disk."""
        return sum(len(self._views_of(index)) for index in self._present())

    def describe(self) -> str:
        """A line for people: size, place, and what costs how much of it."""
        whole, shares = self.layout.view_bytes, self.layout.shares
        parts = ", ".join(f"{name} {100 * size / whole:.0f} %" for name, size in shares.items())
        line = (
            f"teacher outputs of {self.count} views take {self.num_bytes / 1e9:.2f} GB in "
            f"{self.folder} ({parts})"
        )
        if max(shares, key=lambda name: shares[name]) == _IMAGES:
            line += (
                f"; the images cost most: {self.image_size} pixels is the largest resolution of "
                "the groups"
            )
        return line

    def fill(
        self, progress: Progress = silent, *, part: tuple[int, int] = (0, 1), workers: int = 0
    ) -> list[Skipped]:
        """Compute the shards that are missing.

        Args:
            progress: told after every chunk of views.
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
        for path in self.folder.glob(".*.tmp"):  # of processes that were killed
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()
        with _published(self.folder / "key.json") as temporary:  # for people
            temporary.write_text(json.dumps(self._about, indent=1))
        progress("teachers", self.done, self.count)
        skipped: dict[Skipped, None] = {}
        for index in list(self._shards())[part[0] :: part[1]]:
            if not self._path(index).is_file():
                self._fill_shard(index, progress, workers)
            skipped |= dict.fromkeys(self._open(index).skipped)
        return list(skipped)

    def errors(self) -> dict[str, StoredError]:
        """Teacher -> how exact its stored features are, measured while they were stored."""
        measured = [self._open(index).errors for index in self._present()]
        found = {}
        for name in self.teachers if measured else ():
            errors = [of_shard[name] for of_shard in measured]
            rms = math.sqrt(sum(error.rms**2 for error in errors) / len(errors))
            found[name] = StoredError(rms, max(error.worst for error in errors))
        return found

    def images(self, views: Sequence[int]) -> Tensor:
        """[B, 3, S, S] uint8, S the cache's `image_size`."""
        return self._rows(_IMAGES, views)

    def outputs(
        self, views: Sequence[int], names: Sequence[str], device: torch.device | str = "cpu"
    ) -> dict[str, Output]:
        """Stored outputs of the named teachers in float32, decoded on `device`.

        Raises:
            FileNotFoundError: a shard is missing.
            ValueError: a shard is damaged.
        """
        outputs = {}
        for name in names:
            stored = {}
            for tensor in self.layout.tensors:
                if tensor.startswith(f"{name}."):
                    rows = self._rows(tensor, views).to(device, non_blocking=True)
                    stored[tensor.removeprefix(f"{name}.")] = rows
            summary = stored.pop("summary", None)
            parts = {part.removeprefix("features").lstrip("."): t for part, t in stored.items()}
            outputs[name] = Output(None if summary is None else summary.float(), decode(parts))
        return outputs

    def _rows(self, tensor: str, views: Sequence[int]) -> Tensor:
        dtype, shape = self.layout.tensors[tensor]
        batch = torch.empty((len(views), *shape), dtype=dtype)
        for place, view in enumerate(views):
            index, row = divmod(view, self.layout.shard_views)
            batch[place] = self._open(index).row(tensor, row)
        return batch

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

    def _open_shard(self, index: int) -> "_Shard":
        return _Shard(self._path(index), self.key, self.layout, len(self._views_of(index)))

    def _fill_shard(self, index: int, progress: Progress, workers: int) -> None:
        views, before = self._views_of(index), self.done
        tensors = {
            name: torch.empty((len(views), *shape), dtype=dtype)
            for name, (dtype, shape) in self.layout.tensors.items()
        }
        meters = {name: ErrorMeter(t.spec.feature_dim) for name, t in self.teachers.items()}
        skipped: dict[Skipped, None] = {}
        first = 0
        for images, skips in self._chunks(views, workers):
            rows = slice(first, first + len(images))
            kept = images
            if self.image_size != self.size:
                small = to_unit(images, (self.image_size, self.image_size))
                kept = (small * 255).round().byte()
            tensors[_IMAGES][rows] = kept
            for name, teacher in self.teachers.items():
                output = teacher(to_unit(images.to(teacher.device)))
                for tensor, values in self._stored(name, output, meters[name]).items():
                    tensors[tensor][rows] = values
            skipped |= dict.fromkeys(skips)
            first = rows.stop
            progress("teachers", before + first, self.count)
        errors = {name: meter.result() for name, meter in meters.items()}
        about = {
            "key": self.key,
            "errors": {name: [error.rms, error.worst] for name, error in errors.items()},
            "skipped": list(skipped),
        }
        path = self._path(index)
        try:
            with _published(path) as temporary:
                save_file(tensors, temporary, metadata={"about": json.dumps(about)})
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"cannot write {path}: {error}; the shards before it are complete: make room and "
                "run the same command again"
            ) from error

    def _chunks(self, views: range, workers: int) -> Iterator[tuple[Tensor, list[Skipped]]]:
        """Batches of crops [B, 3, size, size] uint8, and the files skipped for them."""
        cells = [t.spec.feature_dim * t.spec.grid()[0] ** 2 for t in self.teachers.values()]
        size = max(1, min(_MAX_CHUNK, CHUNK_BYTES // (4 * max(cells))))
        chunks = [views[first : first + size] for first in range(0, len(views), size)]
        keys = ([(view, (self.size, self.size)) for view in chunk] for chunk in chunks)
        yield from self.views.read(keys, workers)

    def _stored(self, name: str, output: Output, meter: ErrorMeter) -> dict[str, Tensor]:
        """A teacher's output under the names of the layout."""
        encoded = encode(
            downsample(output.features, self.config.cache_downsample), self.config.cache_dtype
        )
        meter.update(output.features, decode(encoded))
        stored = {f"{name}.features.{part}".rstrip("."): t for part, t in encoded.items()}
        if output.summary is not None:
            dtype, _ = self.layout.tensors[f"{name}.summary"]
            stored[f"{name}.summary"] = output.summary.to(dtype)
        for tensor, values in stored.items():
            if values.is_floating_point() and not values.isfinite().all():
                raise ValueError(
                    f"teacher {name}: {tensor.split('.')[1]} that {self.config.cache_dtype} cannot "
                    "hold; cache them as float32"
                )
        return stored


class _Shard:
    """A shard that is open for reading: rows are copied out of the mapped file, and only they.

    Attributes:
        errors: teacher -> how exact its stored features are.
        skipped: unreadable image files met on the way.
    """

    def __init__(self, path: Path, key: str, layout: CacheLayout, views: int) -> None:
        self._path = path
        if not path.is_file():
            raise FileNotFoundError(
                f"the teacher cache has no {path}: fill it with radio cache-teachers and the same "
                "options; what is there stays"
            )
        try:
            file: Any = safe_open(path, "pt")
            about: dict[str, Any] = json.loads((file.metadata() or {})["about"])
            self._slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged or incomplete ({error}): {_FIX}") from error
        found = {name: tuple(part.get_shape()) for name, part in self._slices.items()}
        wanted = {name: (views, *shape) for name, (_, shape) in layout.tensors.items()}
        if about.get("key") != key or found != wanted:
            raise ValueError(f"{path} belongs to another cache: {_FIX}")
        self.errors = {name: StoredError(*pair) for name, pair in about["errors"].items()}
        self.skipped = [(str(name), str(reason)) for name, reason in about["skipped"]]

    def row(self, name: str, row: int) -> Tensor:
        """What is stored of one view under a name of the layout."""
        try:
            tensor: Tensor = self._slices[name][row]
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self._path} is damaged ({error}): {_FIX}") from error
        return tensor


@contextlib.contextmanager
def _published(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `path` if all goes well, and else vanishes."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
