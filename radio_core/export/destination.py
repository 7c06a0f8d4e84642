"""Where exported files go: never a half-written or an unchecked one under its name."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from radio_core.export.parity import Difference


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        side_file: a second file that belongs to it and has to stay beside it; or None.
        differences: the largest one from the model for each size that was compared; empty where
            the result could not be run.
    """

    path: Path
    side_file: Path | None = None
    differences: Sequence[Difference] = ()

    @property
    def bytes(self) -> int:
        """Bytes of all that was written."""
        return sum(file.stat().st_size for file in (self.path, self.side_file) if file)


def check_destination(path: Path, suffix: str) -> None:
    """Refuse a name that cannot be written, and make its folder.

    Raises:
        ValueError: another suffix, or the name of a folder.
    """
    if path.suffix != suffix:
        raise ValueError(f"{path}: the name of this kind of file ends with {suffix}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file")
    path.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A temporary folder in the folder of `path`, so that files move from one to the other."""
    folder = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", dir=path.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
