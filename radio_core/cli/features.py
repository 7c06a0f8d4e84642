"""`radio features`."""

import glob
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import tyro
from PIL import Image
from torch import Tensor

from radio_core.cli import UsageError
from radio_core.data.folder import FolderError, ImageFiles
from radio_core.data.images import UnreadableImage, load_rgb, printable
from radio_core.data.transforms import radio_resize, radio_resize_size, to_tensor
from radio_core.devices import choose_device
from radio_core.open import open_model
from radio_core.pictures import MOST_PAIRS, Pair, contact_sheet, shown_features
from radio_core.progress import rich_progress
from radio_core.vision import ModelSpec, nearest_resolution

NATIVE = "native"

_LISTED = 20  # images whose shapes are printed
_WAITING_BATCHES = 4  # images that wait for others of their shape, in batches
_LENGTH_BYTES = 8  # of a safetensors file's header
_MOST_HEADER_BYTES = 100_000_000  # what readers of the format accept
_HEADER_BYTES_AN_IMAGE = 500  # without its path


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Run a model on images; write its summaries and features, or show the features as colours."""

    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files, folders (searched with all below them), or patterns such as "photos/*.jpg"."""
    model: str = "toy"
    """A release, a file or folder with a model, a hub id, an exported file, a teacher such as
    toy-dino, or whatever else `radio_core.open_model` takes."""
    adaptor: str = ""
    """Take the features of this adaptor ("clip", "dino_v2", "sam") instead of the backbone's."""
    resolution: str = ""
    """Pixels: "512" scales each image's shortest side to it; "432x768" (height x width) scales to
    cover it and cuts the centre out; "native" keeps each image's size, rounded to what the model
    takes. If empty, the shortest side of the model's own size, or its own square for a model that
    is meant for squares."""
    batch_size: int = 8
    """Most images in one forward pass; only images of equal size go together."""
    window_size: int | None = None
    """Side in patches of the attention windows; global attention if None."""
    device: str = "auto"
    """Where the model runs, such as "cuda:1"; "auto" takes a GPU where there is one."""
    pca: Path | None = None
    """PNG file for a picture: each image beside its features' first three principal components.
    Of many images the first 24."""
    out: Path | None = None
    """Safetensors file: "<number>.summary" [C] and "<number>.features" [C, h, w] of each image,
    float32. Its metadata has "model", "adaptor", and for each number its path ("<number>") and the
    image size that the model saw ("<number>.size", "HEIGHTxWIDTH")."""


class _Seen(NamedTuple):
    """One image at the size at which the model sees it; numbers count the readable images."""

    number: int
    path: Path
    image: Image.Image


def features(options: FeatureOptions) -> int:
    """Extract features of images, and see them as colours."""
    if not options.images:
        raise UsageError("name at least one image")
    if options.batch_size < 1:
        raise UsageError(f"--batch-size {options.batch_size} must be at least 1")
    if not re.fullmatch(rf"|{NATIVE}|[1-9]\d*(x[1-9]\d*)?", options.resolution):
        raise UsageError(
            f"--resolution {options.resolution!r} must be one side (512), height x width "
            f'(432x768), or "{NATIVE}"'
        )
    skipped: dict[str, str] = {}
    paths = list(_expanded(options.images, skipped))
    model = open_model(
        options.model,
        adaptor=options.adaptor,
        window_size=options.window_size,
        device=choose_device(options.device, options.model),
    )
    resize = _resizer(model.spec, options.resolution)
    shown = 0 if options.pca is None else min(len(paths), MOST_PAIRS)
    lines: dict[int, str] = {}
    pairs: dict[int, Pair] = {}
    try:
        with ExitStack() as stack:
            progress = stack.enter_context(rich_progress())
            file = stack.enter_context(FeatureFile.of(options, paths)) if options.out else None
            for batch in _batches(_read(paths, resize, skipped), options.batch_size):
                images = torch.stack([to_tensor(seen.image) for seen in batch])
                height, width = images.shape[-2:]
                summaries, maps = model(images.to(model.device), size=(height, width))
                for row, seen in enumerate(batch):
                    summary = None if summaries is None else summaries[row]
                    if file is not None:
                        file.metadata[str(seen.number)] = printable(seen.path)
                        file.metadata[f"{seen.number}.size"] = f"{height}x{width}"
                        file.add(f"{seen.number}.features", maps[row])
                        if summary is not None:
                            file.add(f"{seen.number}.summary", summary)
                    shape = " x ".join(str(side) for side in maps[row].shape)
                    vector = 0 if summary is None else len(summary)
                    lines[seen.number] = (
                        f"{printable(seen.path)}: summary {vector}, features {shape}"
                    )
                    if seen.number < shown:
                        pairs[seen.number] = Pair(seen.image, shown_features(maps[row], shown))
                progress("images", len(lines), len(paths))
    except BaseException:  # also Ctrl-C
        if options.out is not None and lines:
            print(f"{options.out} holds the {len(lines)} images done so far", file=sys.stderr)
        raise
    for number in range(min(len(lines), _LISTED)):
        print(lines[number])
    if len(lines) > _LISTED:
        print(f"... and {len(lines) - _LISTED} more images")
    for path, reason in skipped.items():
        print(f"skipped {printable(path)}: {reason}", file=sys.stderr)
    if not lines:
        raise ValueError("no image could be read")
    if options.pca is not None:
        options.pca.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet([pairs[number] for number in sorted(pairs)]).save(options.pca, "PNG")
        if len(pairs) < len(lines):
            print(f"{options.pca} shows the first {len(pairs)} images")
    return 0


def _expanded(names: Sequence[str], skipped: dict[str, str]) -> Iterator[Path]:
    """The image files that files, folders and patterns stand for, in the order given."""
    for name in names:
        if Path(name).is_dir():
            try:
                files = ImageFiles(name)
            except FolderError as error:
                skipped[name] = str(error)
                continue
            yield from (files.path(index) for index in range(len(files)))
        elif glob.has_magic(name) and not Path(name).exists():
            found = sorted(glob.glob(name, recursive=True))
            if not found:
                skipped[name] = "no file fits this pattern"
            yield from (path for path in map(Path, found) if path.is_file())
        else:
            yield Path(name)


def _resizer(spec: ModelSpec, resolution: str) -> Callable[[Image.Image], Image.Image]:
    """What brings an image to the size at which the model sees it, as `FeatureOptions` says."""
    step, limit, native = spec.step, spec.max_size, resolution == NATIVE
    own = not resolution and (spec.square or not spec.flexible)
    sides = () if native else tuple(map(int, (resolution or str(spec.input_size)).split("x")))
    if limit is not None and max(sides, default=0) > limit:
        raise ValueError(
            f"--resolution {resolution}: {spec.name} is meant for at most {limit} pixels a side"
        )
    if native and not spec.flexible:
        raise ValueError(f"{spec.name} takes images of {spec.input_size} pixels a side only")
    if len(sides) == 2 or not spec.flexible:
        spec.checked_size((sides[0], sides[-1]))
    warned = False

    def resize(image: Image.Image) -> Image.Image:
        nonlocal warned
        height, width = image.height, image.width
        if len(sides) == 2:
            return radio_resize(image, sides, step)
        if own or not spec.flexible:
            height = width = spec.input_size
        elif sides:
            height, width = radio_resize_size(height, width, sides, step)
        if limit is not None and max(height, width) > limit:
            if not warned:
                print(
                    f"warning: images whose longer side would exceed {limit} pixels, the model's "
                    "max_resolution, are scaled down to it",
                    file=sys.stderr,
                )
            warned = True
            factor = limit / max(image.size)
            height, width = int(image.height * factor), int(image.width * factor)
            height, width = (max(step, side // step * step) for side in (height, width))
        height, width = nearest_resolution(height, width, step)
        return image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)

    return resize


def _read(
    paths: Iterable[Path], resize: Callable[[Image.Image], Image.Image], skipped: dict[str, str]
) -> Iterator[_Seen]:
    """The readable images at the model's sizes; the others are recorded."""
    number = 0
    for path in paths:
        try:
            image = load_rgb(path)
        except UnreadableImage as error:
            skipped.setdefault(error.name, error.reason)
            continue
        yield _Seen(number, path, resize(image))
        number += 1


def _batches(images: Iterable[_Seen], batch_size: int) -> Iterator[list[_Seen]]:
    """Group images of equal size. Only a few batches' worth of images wait at any time."""
    waiting: dict[tuple[int, int], list[_Seen]] = {}
    for seen in images:
        size = seen.image.size
        waiting.setdefault(size, []).append(seen)
        if len(waiting[size]) == batch_size:
            yield waiting.pop(size)
        elif sum(map(len, waiting.values())) == _WAITING_BATCHES * batch_size:
            yield waiting.pop(max(waiting, key=lambda size: len(waiting[size])))
    yield from waiting.values()


class FeatureFile:
    """Writes float32 tensors and text metadata as safetensors; a context manager.

    The library's own writer takes all tensors at once; here they come one by one, so that the
    file may be larger than memory. The format puts a header with every shape and position first:
    room for it is reserved, and leaving the context fills it in, also after an error or Ctrl-C, so
    that what was added is kept. Until then the file is called PATH.partial, and without any tensor
    there is no file. `header_bytes` is the most that the JSON of all tensors and metadata can take.
    """

    def __init__(self, path: Path, header_bytes: int) -> None:
        self._reserved = (header_bytes + 1024) // 8 * 8
        if self._reserved > _MOST_HEADER_BYTES:
            raise ValueError(
                f"{path}: too many images for one safetensors file; run them in several parts"
            )
        self.path = path
        self.metadata: dict[str, str] = {}
        self._entries: dict[str, Mapping[str, object]] = {}
        self._end = 0
        self._partial = path.with_name(path.name + ".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._partial.open("wb")
        self._file.write(bytes(_LENGTH_BYTES + self._reserved))

    @classmethod
    def of(cls, options: FeatureOptions, paths: Sequence[Path]) -> "FeatureFile":
        """The file of `--out`, with room for every image."""
        assert options.out is not None
        about = {"model": options.model, "adaptor": options.adaptor or "backbone"}
        names = sum(len(json.dumps(printable(path))) for path in paths)
        file = cls(
            options.out, len(json.dumps(about)) + names + len(paths) * _HEADER_BYTES_AN_IMAGE
        )
        file.metadata |= about
        return file

    def add(self, name: str, tensor: Tensor) -> None:
        """Write one tensor of any shape, as float32; names must differ."""
        assert name not in self._entries
        values = tensor.detach().cpu().float().contiguous().numpy().astype("<f4", copy=False)
        self._file.write(values.data)
        span = [self._end, self._end + values.nbytes]
        self._entries[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": span}
        self._end = span[1]

    def __enter__(self) -> "FeatureFile":
        return self

    def __exit__(self, *_: object) -> None:
        """Fill in the header and give the file its name."""
        with self._file:
            if self._entries:
                header = {"__metadata__": self.metadata, **self._entries}
                text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
                assert len(text) <= self._reserved
                self._file.seek(0)
                self._file.write(self._reserved.to_bytes(_LENGTH_BYTES, "little"))
                self._file.write(text.ljust(self._reserved))
        if self._entries:
            os.replace(self._partial, self.path)
        else:
            self._partial.unlink()
