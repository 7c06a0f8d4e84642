"""Folders of photos: listed, read one by one, with an account of what was skipped.

Large folders are listed once: what was found is kept and used while no folder changes. A file
added, renamed or removed changes the time stamp of its folder, so comparing the stamps of all
folders (not files) shows whether the kept list still holds. The content of files is not in it.
"""

import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from radio_core.data.images import UnreadableImage, load_rgb, printable
from radio_core.data.storage import PackedNames, Storage, sizes_digest
from radio_core.progress import Progress, silent

IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp"}
    | {".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
)
"""Lower-case endings of the files that are tried as images."""

KEEP_FROM = 10_000
"""Files from which on a folder's list is kept; shorter ones are made anew faster than told of."""

_REPORT_EVERY = 1000
_SETTLED = 2 * 1000**3  # time stamps are this coarse on some file systems, in nanoseconds


class FolderError(ValueError):
    """A folder that cannot be used as it was given; the message is one line with the reason."""


@dataclass(frozen=True)
class FolderScan:
    """What is below a folder.

    Attributes:
        images: paths of the image files below the folder, sorted folder by folder.
        foreign: paths of all other files.
        closed: (path, reason) of sub-folders that could not be read.
        folders: paths of the folders that were read, "" being the top.
        changed: when each of them last got or lost an entry, int64 nanoseconds as `os.stat` says.
    """

    images: PackedNames
    foreign: PackedNames
    closed: list[tuple[str, str]]
    folders: PackedNames
    changed: np.ndarray


class ImageFiles:
    """Every image under a folder, in an order that depends on the names alone; an `ImageSource`.

    `skipped` maps paths of foreign files and closed sub-folders to the reason; users may add to it.
    Sub-folders are entered, symbolic links followed; a folder that is reached twice (also through
    a loop of links) is read once. Nothing in the folder is fatal as long as one image can be read.

    Args:
        root: the folder.
        scan: what `scan_folder` found there; by default it looks now.
    """

    def __init__(self, root: str | os.PathLike[str], scan: FolderScan | None = None) -> None:
        self.root = Path(root)
        scan = scan or scan_folder(self.root)
        self.skipped = dict(scan.closed)
        for name in scan.foreign:
            ending = os.path.splitext(name)[1].lower() or "nothing"
            path = os.path.join(self.root, name)
            self.skipped[path] = f"not an image: its name ends in {ending}"
        self.names = scan.images
        if not self.names:
            endings = " ".join(sorted(IMAGE_EXTENSIONS))
            raise FolderError(f"no images under {printable(self.root)} (looked for {endings})")
        for index in range(len(self)):  # stop early on a folder of nothing but damaged files
            try:
                self.read(index)
                break
            except UnreadableImage as error:
                self.skipped[error.name] = error.reason
        else:
            kinds = Counter(reason.split(":", 1)[0] for reason in self.skipped.values())
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            raise FolderError(
                f"none of the {len(self)} image files under {printable(self.root)} can be read "
                f"(skipped {len(self.skipped)} files: {counts})"
            )

    def __len__(self) -> int:
        """Number of image files, the damaged ones included."""
        return len(self.names)

    def path(self, index: int) -> Path:
        """Path of the file at `index`."""
        return self.root / self.names[index]

    def read(self, index: int) -> Image.Image:
        """The image at `index` as 8-bit RGB. Raises UnreadableImage, and records nothing."""
        return load_rgb(self.path(index))

    @property
    def faults(self) -> list[tuple[str, str]]:
        """See `sources.faults`."""
        return list(self.skipped.items())

    def layout(self) -> str:
        """See `sources.data_layout`."""
        return f"folder:{self.names.digest()}"

    def identity(self) -> str:
        """See `sources.data_identity`."""
        sizes = sizes_digest(self.root / name for name in self.names)
        return f"{self.root.resolve()}:{self.names.digest()}:{sizes}"


def open_folder(path: str, storage: Storage) -> ImageFiles:
    """Open a folder for training. Raises FolderError as `ImageFiles`."""
    root = Path(path).expanduser()
    return ImageFiles(root, scan=indexed_scan(root, storage))


def indexed_scan(root: Path, storage: Storage, keep_from: int = KEEP_FROM) -> FolderScan:
    """What `scan_folder` finds, from the kept index of at least `keep_from` files if it holds."""
    key = {"root": printable(root.resolve()), "endings": sorted(IMAGE_EXTENSIONS)}
    kept = storage.load("folders", key)
    if kept is not None:
        images, foreign, folders = (
            PackedNames.from_arrays(kept, name) for name in ("images", "foreign", "folders")
        )
        stamps = dict(zip(folders, kept["changed"].tolist(), strict=True))
        if all(_changed(root / folder) == stamp for folder, stamp in stamps.items()):
            made = time.strftime("%Y-%m-%d %H:%M", time.localtime(int(kept["made"])))
            storage.tell(
                f"{printable(root)}: {len(images)} images by the index of {made} "
                "(--refresh-index lists the folder again)"
            )
            return FolderScan(images, foreign, [], folders, kept["changed"])
    began = time.time_ns()
    scan = scan_folder(root, storage.progress)
    # A folder that cannot be read now may be later, without a new time stamp.
    if len(scan.images) + len(scan.foreign) >= keep_from and not scan.closed:
        # A change right after the look would go unnoticed: such a stamp fits nothing.
        changed = np.where(scan.changed > began - _SETTLED, -1, scan.changed)
        names = {"images": scan.images, "foreign": scan.foreign, "folders": scan.folders}
        arrays = {"made": np.array(began // 1000**3), "changed": changed}
        for name, packed in names.items():
            arrays |= packed.arrays(name)
        storage.save("folders", key, arrays)
    return scan


def _changed(folder: Path) -> int | None:
    """When a folder last got or lost an entry, in nanoseconds; None if it cannot be reached."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return None


def scan_folder(root: Path, progress: Progress = silent) -> FolderScan:
    """List a folder, as `ImageFiles` describes it."""
    images: list[str] = []
    foreign: list[str] = []
    closed: list[tuple[str, str]] = []
    folders: list[str] = []
    changed: list[int] = []
    seen: set[tuple[int, int]] = set()
    pending = [("", True)]  # (path below the root, is a folder), the next one last
    while pending:
        name, is_folder = pending.pop()
        if not is_folder:
            fits = os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS
            (images if fits else foreign).append(name)
            count = len(images) + len(foreign)
            if count % _REPORT_EVERY == 0:
                progress(f"listing {printable(root)}", count, None)
            continue
        place = os.path.join(root, name) if name else os.fspath(root)
        try:
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(place) as entries:
                inside = sorted((entry.name, _is_folder(entry)) for entry in entries)
        except OSError as error:
            if not name:
                reason = (error.strerror or str(error)).lower()
                raise FolderError(f"cannot read folder {printable(root)}: {reason}") from error
            denied = isinstance(error, PermissionError)
            closed.append((place, "permission denied" if denied else f"missing: {error.strerror}"))
            continue
        folders.append(name)
        changed.append(status.st_mtime_ns)
        pending += [(os.path.join(name, entry), is_one) for entry, is_one in reversed(inside)]
    return FolderScan(
        PackedNames.of(images),
        PackedNames.of(foreign),
        closed,
        PackedNames.of(folders),
        np.array(changed, dtype=np.int64),
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Links to folders are folders; links that lead nowhere count as files."""
    try:
        return entry.is_dir()
    except OSError:
        return False
