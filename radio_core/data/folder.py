"""Folders of photos: found recursively, read one by one, with an account of what was skipped."""

import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from radio_core.data.images import MAX_PIXELS, UnreadableImage, load_rgb, printable
from radio_core.data.storage import PackedNames

IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp"}
    | {".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
)
"""Lower-case endings of the files that are tried as images."""

CLASS_NAMES_FILE = "classnames.json"
_REPORT_EVERY = 1000


class FolderError(ValueError):
    """A folder that cannot be used as it was given; the message is one line with the reason."""


class SkippedFiles:
    """The account of files that gave no image: each path once, in the order met."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def add(self, path: str | os.PathLike[str], reason: str) -> None:
        """Record one file; recording it again changes nothing."""
        self._reasons.setdefault(os.fspath(path), reason)

    @property
    def count(self) -> int:
        """Number of different files."""
        return len(self._reasons)

    def __len__(self) -> int:
        return len(self._reasons)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(path, reason) pairs; reasons as in `UnreadableImage`."""
        return iter(self._reasons.items())

    def summary(self) -> str:
        """One line: how many files were skipped, and how many for which kind of reason."""
        if not self._reasons:
            return "no files skipped"
        kinds = Counter(reason.split(":", 1)[0] for reason in self._reasons.values())
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        noun = "file" if self.count == 1 else "files"
        return f"skipped {self.count} {noun}: {counts}"

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write one JSON object a line, {"path": ..., "reason": ...}, over an existing file."""
        lines = [json.dumps({"path": name, "reason": reason}) + "\n" for name, reason in self]
        Path(path).write_text("".join(lines), encoding="utf-8")


class ImageFiles:
    """Every image under a folder, in an order that depends on the names alone.

    Satisfies `ImageSource`. Sub-folders are entered, symbolic links followed; a folder that is
    reached twice (also through a loop of links) is read once. Nothing in the folder is fatal as
    long as one image can be read: every other file is recorded in `skipped`, those with a foreign
    name or in a closed sub-folder at once, those that cannot be decoded when they are asked for.
    In a DataLoader's worker process that record stays in the worker; use `read` there and hand
    the error back.

    Args:
        root: the folder.
        extensions: endings to try, in any case; None tries every file.
        max_pixels: larger images are skipped.
        scan: what `scan_folder` found there with these endings; by default it looks now.

    Attributes:
        root: the folder.
        names: paths below `root`, in order.
        skipped: what was skipped so far.

    Raises:
        FolderError: if the folder is missing, closed, or holds no readable image.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        extensions: Collection[str] | None = IMAGE_EXTENSIONS,
        max_pixels: int = MAX_PIXELS,
        scan: "FolderScan | None" = None,
    ) -> None:
        self.root = Path(root)
        self.skipped = SkippedFiles()
        self._max_pixels = max_pixels
        scan = scan or scan_folder(self.root, extensions)
        for place, reason in scan.closed:
            self.skipped.add(place, reason)
        for name in scan.foreign:
            ending = os.path.splitext(name)[1].lower() or "nothing"
            self.skipped.add(self.root / name, f"not an image: its name ends in {ending}")
        self.names = scan.images
        if not self.names:
            looked_for = "any file" if extensions is None else " ".join(sorted(extensions)).lower()
            raise FolderError(f"no images under {printable(self.root)} (looked for {looked_for})")
        self._require_one_readable()

    def _require_one_readable(self) -> None:
        """Stop early, and in one line, on a folder of nothing but damaged files."""
        if all(self.load(index) is None for index in range(len(self))):
            raise FolderError(
                f"none of the {len(self)} image files under {printable(self.root)} can be read "
                f"({self.skipped.summary()})"
            )

    def __len__(self) -> int:
        """Number of image files, the damaged ones included."""
        return len(self.names)

    def relative_path(self, index: int) -> str:
        """Path of the file at `index` below `root`."""
        return self.names[index]

    def path(self, index: int) -> Path:
        """Path of the file at `index`."""
        return self.root / self.names[index]

    def read(self, index: int) -> Image.Image:
        """The image at `index`, 8-bit RGB. Raises UnreadableImage and records nothing."""
        return load_rgb(self.path(index), self._max_pixels)

    def load(self, index: int) -> Image.Image | None:
        """The image at `index`, 8-bit RGB; None, and a record in `skipped`, if it is unreadable."""
        try:
            return self.read(index)
        except UnreadableImage as error:
            self.skipped.add(error.path, error.reason)
            return None

    def __getitem__(self, index: int) -> Image.Image | None:
        """Same as `load`."""
        return self.load(index)


class LabelledFolder:
    """Images sorted into one folder a class: root/split/<class>/..., the ImageFolder layout.

    Args:
        root: the data set's folder, perhaps with a classnames.json {class folder: name}.
        split: sub-folder with the class folders, e.g. "train"; None if `root` has them itself.
        classes: the class folders in label order. By default the sorted keys of
            classnames.json, without that file the sorted folders found. Pass the training
            split's `classes` where a split may lack some.

    Attributes:
        images: the `ImageFiles` below, with the account of skipped files.
        classes: class folders; a label is an index into it.
        class_names: readable name of each class.
        labels: label of every image, as `images` orders them.

    Raises:
        FolderError: as `ImageFiles`, and for images outside the known class folders.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.images = ImageFiles(root if split is None else Path(root) / split)
        folders = [
            self.images.relative_path(index).split(os.sep)[0] for index in range(len(self.images))
        ]
        named = Path(root, CLASS_NAMES_FILE).is_file()
        names = read_class_names(root) if named else {}
        self.classes = list(classes) if classes is not None else sorted(names or set(folders))
        self.class_names = [names.get(folder, folder) for folder in self.classes]
        label_of = {folder: label for label, folder in enumerate(self.classes)}
        strangers = sorted(set(folders) - set(label_of))
        if strangers:
            raise FolderError(
                f"{printable(self.images.root)}: {', '.join(map(printable, strangers[:5]))} "
                f"{'is' if len(strangers) == 1 else 'are'} not among the {len(label_of)} classes"
            )
        self.labels = [label_of[folder] for folder in folders]

    def __len__(self) -> int:
        """Number of image files, the damaged ones included."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image | None, int]:
        """(8-bit RGB image or None if it is unreadable, label)."""
        return self.images.load(index), self.labels[index]


def read_class_names(root: str | os.PathLike[str]) -> dict[str, str]:
    """Read root/classnames.json: class folder (a WordNet id, a slug) -> name for people.

    Raises:
        FolderError: if the file is missing or is not an object of strings.
    """
    path = Path(root, CLASS_NAMES_FILE)
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FolderError(f"cannot read {printable(path)}: {error.strerror}") from error
    except ValueError as error:
        raise FolderError(f"{printable(path)} is not valid JSON: {error}") from error
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise FolderError(f"{printable(path)} must map class folders to names, as strings")
    return names


@dataclass(frozen=True)
class FolderScan:
    """What is below a folder.

    Attributes:
        images: paths of the image files below the folder, sorted folder by folder.
        foreign: paths of all other files.
        closed: (path, reason) of sub-folders that could not be read.
        folders: paths of the folders that were read, "" being the top.
        changed: when each of them last got or lost an entry, in nanoseconds as `os.stat` says.
    """

    images: PackedNames
    foreign: PackedNames
    closed: list[tuple[str, str]]
    folders: PackedNames
    changed: list[int]


def scan_folder(
    root: Path,
    extensions: Collection[str] | None = IMAGE_EXTENSIONS,
    found: Callable[[int], None] = lambda count: None,
) -> FolderScan:
    """List a folder, as `ImageFiles` describes it.

    Args:
        root: the folder.
        extensions: endings of image files, in any case; None for every file.
        found: called with the number of files found so far, folder by folder.

    Raises:
        FolderError: if the folder is missing or closed.
    """
    endings = None if extensions is None else frozenset(e.lower() for e in extensions)
    walk = _Walk(root)
    images: list[str] = []
    foreign: list[str] = []
    for name in walk:
        is_image = endings is None or os.path.splitext(name)[1].lower() in endings
        (images if is_image else foreign).append(name)
        if (len(images) + len(foreign)) % _REPORT_EVERY == 0:
            found(len(images) + len(foreign))
    return FolderScan(
        PackedNames.of(images),
        PackedNames.of(foreign),
        walk.closed,
        PackedNames.of(walk.folders),
        walk.changed,
    )


class _Walk:
    """Relative paths of all files below a folder, each folder's entries by name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.closed: list[tuple[str, str]] = []
        self.folders: list[str] = []
        self.changed: list[int] = []
        self._seen: set[tuple[int, int]] = set()

    def __iter__(self) -> Iterator[str]:
        levels = [iter(self._entries(""))]
        while levels:
            name, is_folder = next(levels[-1], ("", False))
            if not name:
                levels.pop()
            elif is_folder:
                levels.append(iter(self._entries(name)))
            else:
                yield name

    def _entries(self, folder: str) -> list[tuple[str, bool]]:
        """(path below the root, whether it is a folder) of what a folder holds."""
        place = os.path.join(self.root, folder) if folder else os.fspath(self.root)
        try:
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in self._seen:
                return []
            self._seen.add((status.st_dev, status.st_ino))
            with os.scandir(place) as entries:
                found = sorted((entry.name, _is_folder(entry)) for entry in entries)
        except OSError as error:
            if not folder:
                reason = (error.strerror or str(error)).lower()
                raise FolderError(f"cannot read folder {printable(self.root)}: {reason}") from error
            denied = isinstance(error, PermissionError)
            reason = "permission denied" if denied else f"missing: {error.strerror}"
            self.closed.append((place, reason))
            return []
        self.folders.append(folder)
        self.changed.append(status.st_mtime_ns)
        return [(os.path.join(folder, name), is_folder) for name, is_folder in found]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether the entry is a folder or a link to one; unreachable links count as files."""
    try:
        return entry.is_dir()
    except OSError:
        return False
