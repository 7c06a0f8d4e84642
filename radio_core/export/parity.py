"""Exported files: compared with the model, and never half-written or unchecked under their name."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from radio_core.export.card import Engine, ExportCard, Precision
from radio_core.progress import Progress, silent

Run = Callable[[Tensor], Mapping[str, Tensor]]

TOLERANCES: dict[Precision, float] = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest error that is accepted, as a share of the largest value of the output."""

_SIZES = ((224, 224), (160, 288), (320, 224))
_SEED = 20


class ParityError(ValueError):
    """The exported network computes something else."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The output farthest from the model's for one case (BATCHxHEIGHTxWIDTH): largest difference /
    largest value."""

    case: str
    output: str
    error: float


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written: a file, perhaps a second one that has to stay beside it, and how far it
    is from the model at each size that was compared (empty where it could not be run)."""

    path: Path
    card: ExportCard
    side_file: Path | None = None
    differences: Sequence[Difference] = ()

    @property
    def bytes(self) -> int:
        """Bytes of all that was written."""
        return sum(file.stat().st_size for file in (self.path, self.side_file) if file)


def check_destination(path: Path, suffix: str) -> None:
    """Refuse another suffix and the name of a folder, and make the file's folder."""
    if path.suffix != suffix:
        raise ValueError(f"{path}: the name of this kind of file ends with {suffix}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file")
    path.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def draft(path: Path, side_suffix: str = "") -> Iterator[Path]:
    """A name to write to, in a temporary folder beside `path`; what is there moves in the end.

    Nothing moves where the block raises: `path` keeps what it had. With `side_suffix`, a file of
    the draft's name with that behind it moves too; one that belonged to the old file is removed.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", dir=path.parent))
    try:
        written = folder / path.name
        yield written
        if side_suffix:
            side, target = (file.with_name(path.name + side_suffix) for file in (written, path))
            if side.exists():
                os.replace(side, target)
            else:
                target.unlink(missing_ok=True)
        os.replace(written, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Parity:
    """What a model says about random images of some (batch, height, width), to compare exports
    with."""

    def __init__(
        self, run: Run, shapes: Sequence[tuple[int, int, int]], progress: Progress = silent
    ) -> None:
        generator = torch.Generator().manual_seed(_SEED)
        self._cases: list[tuple[Tensor, Mapping[str, Tensor]]] = []
        for index, (batch, height, width) in enumerate(shapes):
            progress("running the model", index, len(shapes))
            images = torch.rand(batch, 3, height, width, generator=generator)
            self._cases.append((images, run(images)))

    def check(
        self, engine: Engine, what: str, tolerance: float | None = None, progress: Progress = silent
    ) -> list[Difference]:
        """The largest difference of each case; ParityError beyond the tolerance (None: the usual
        one of the precision), NaN and infinity included."""
        limit = TOLERANCES[engine.card.precision] if tolerance is None else tolerance
        differences = []
        for index, (images, expected) in enumerate(self._cases):
            progress(f"checking {what}", index, len(self._cases))
            found = engine.run(images)
            errors = {name: _error(found[name], wanted) for name, wanted in expected.items()}
            output = max(errors, key=lambda name: errors[name])
            batch, _, height, width = images.shape
            shape = f"{batch}x{height}x{width}"
            differences.append(Difference(case=shape, output=output, error=errors[output]))
        worst = max(differences, key=lambda difference: difference.error)
        if not worst.error <= limit:
            raise ParityError(
                f"{what} differs from the model: {worst.output} of {worst.case} by "
                f"{worst.error:.1e} of its largest value, more than {limit:.0e}; nothing was "
                "written"
            )
        return differences


def parity_shapes(card: ExportCard) -> list[tuple[int, int, int]]:
    """(batch, height, width) of three cases: three sizes, one of them no square, and batches."""
    sizes = list(dict.fromkeys(card.nearest_size(*size) for size in _SIZES))
    while card.fixed_size is None and len(sizes) < 3:  # a step so long that they coincide
        height, width = sizes[-1]
        sizes.append(card.nearest_size(height, width + card.resolution_step))
    return [(batch, *sizes[batch % len(sizes)]) for batch in (1, 2, 3)]


def _error(found: Tensor, wanted: Tensor) -> float:
    """Largest difference / largest wanted value; infinite for another shape, or for NaN."""
    if found.shape != wanted.shape:
        return float("inf")
    found, wanted = found.float().cpu(), wanted.float().cpu()
    error = float((found - wanted).abs().max()) / max(float(wanted.abs().max()), 1e-12)
    return error if error == error else float("inf")
