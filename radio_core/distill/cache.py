"""Teacher outputs computed once and kept on disk in float16."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from radio_core.distill.views import Views, to_unit
from radio_core.models.fingerprint import weights_fingerprint
from radio_core.teachers import Teacher, TeacherOutput

CONFIRM_BYTES = 10 * 1000**3
_CHUNK = 64
_FORMAT = 1  # counted up when the same key would give other views or targets
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class CacheLayout:
    """What a cache holds: file name -> (dtype, shape)."""

    arrays: dict[str, tuple[type[np.generic], tuple[int, ...]]]

    @classmethod
    def of(cls, teachers: Mapping[str, Teacher], count: int, size: int) -> "CacheLayout":
        """Layout for `count` views of `size` pixels and the given teachers."""
        arrays: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
            "images": (np.uint8, (count, 3, size, size))
        }
        for name, teacher in teachers.items():
            spec = teacher.spec
            grid = (spec.grid_size, spec.grid_size)
            arrays[f"{name}.features"] = (np.float16, (count, spec.feature_dim, *grid))
            if spec.summary_dim is not None:
                arrays[f"{name}.summary"] = (np.float16, (count, spec.summary_dim))
        return cls(arrays)

    @property
    def num_bytes(self) -> int:
        """Size on disk."""
        return sum(
            int(np.prod(shape)) * np.dtype(dtype).itemsize for dtype, shape in self.arrays.values()
        )


class TeacherCache:
    """Views and teacher outputs of a run, memory-mapped; filled once, continued if interrupted.

    Args:
        folder: the cache lives in a sub-folder named after its key.
        teachers: adaptor name -> teacher.
        views: the crops.
        count: how many of them, from view 0.
        size: side in pixels of the stored views.
        identity: names the data; together with crops, teachers and sizes it is the key.
    """

    def __init__(
        self,
        folder: Path,
        teachers: Mapping[str, Teacher],
        views: Views,
        count: int,
        size: int,
        identity: str,
    ) -> None:
        self.teachers, self.views, self.count, self.size = dict(teachers), views, count, size
        self.layout = CacheLayout.of(teachers, count, size)
        key: dict[str, Any] = {
            "format": _FORMAT,
            "data": identity,
            "crop_scale": list(views.crop_scale),
            "seed": views.seed,
            "count": count,
            "size": size,
            "teachers": {
                name: {"weights": weights_fingerprint(teacher), **asdict(teacher.spec)}
                for name, teacher in teachers.items()
            },
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.folder = folder / digest[:16]
        self._key = key
        self._arrays: dict[str, np.ndarray] = {}

    @property
    def done(self) -> int:
        """Views that are complete on disk."""
        return int(self._progress()["done"])

    def fill(self, report: Report = lambda done, count: None) -> list[tuple[str, str]]:
        """Compute what is missing; returns (path, reason) of all unreadable files met so far."""
        self._open()
        earlier = self._progress()["skipped"]
        skipped = dict.fromkeys((str(path), str(reason)) for path, reason in earlier)
        for first, last in self._missing():
            items = [self.views[(view, self.size)] for view in range(first, last)]
            images = torch.stack([image for image, _ in items])
            self._arrays["images"][first:last] = images.numpy()
            for name, teacher in self.teachers.items():
                device = teacher.mean.device
                self._store(name, first, last, teacher(to_unit(images).to(device)))
            skipped |= dict.fromkeys(entry for _, entries in items for entry in entries)
            self._mark(last, list(skipped))
            report(last, self.count)
        return list(skipped)

    def images(self, views: tuple[int, ...]) -> Tensor:
        """[B, 3, S, S] uint8."""
        return self._gather("images", views)

    def outputs(self, views: tuple[int, ...], names: tuple[str, ...]) -> dict[str, TeacherOutput]:
        """Stored outputs of the named teachers in float32."""
        outputs = {}
        for name in names:
            has_summary = f"{name}.summary" in self.layout.arrays
            summary = self._gather(f"{name}.summary", views).float() if has_summary else None
            features = self._gather(f"{name}.features", views).float()
            outputs[name] = TeacherOutput(summary, features)
        return outputs

    def _gather(self, array: str, views: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(self._arrays[array][list(views)])

    def _missing(self) -> Iterator[tuple[int, int]]:
        for first in range(self.done, self.count, _CHUNK):
            yield first, min(first + _CHUNK, self.count)

    def _store(self, name: str, first: int, last: int, output: TeacherOutput) -> None:
        parts = {"features": output.features, "summary": output.summary}
        for part, values in parts.items():
            if values is None:
                continue
            half = values.half()
            if not torch.isfinite(half).all():
                raise ValueError(
                    f"teacher {name}: {part} that float16 cannot hold; do not cache it"
                )
            self._arrays[f"{name}.{part}"][first:last] = half.cpu().numpy()

    def _progress(self) -> dict[str, Any]:
        """What the last complete chunk wrote: views done, and the files skipped on the way."""
        path = self.folder / "progress.json"
        if not path.is_file():
            return {"done": 0, "skipped": []}
        progress: dict[str, Any] = json.loads(path.read_text())
        return progress

    def _mark(self, done: int, skipped: list[tuple[str, str]]) -> None:
        for array in self._arrays.values():
            array.flush()  # type: ignore[attr-defined]
        temporary = self.folder / "progress.tmp"
        temporary.write_text(json.dumps({"done": done, "skipped": skipped}))
        temporary.replace(self.folder / "progress.json")

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "key.json").write_text(json.dumps(self._key, indent=1))
        fresh = self.done == 0
        for name, (dtype, shape) in self.layout.arrays.items():
            path = self.folder / f"{name}.npy"
            if fresh:
                np.lib.format.open_memmap(path, "w+", dtype, shape).flush()
            self._arrays[name] = np.lib.format.open_memmap(path, "r+")
