"""Extract features of images, and see them as colours."""

import glob
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from radio_core.cli import UsageError, parse
from radio_core.cli.contact_sheet import MOST_PAIRS, Pair, contact_sheet, shown_features
from radio_core.cli.feature_file import FeatureFile
from radio_core.data.folder import FolderError, ImageFiles, SkippedFiles
from radio_core.data.images import UnreadableImage, load_rgb, printable
from radio_core.data.transforms import radio_resize, radio_resize_size, to_tensor
from radio_core.teachers import load_teacher
from radio_core.teachers.load import is_teacher
from radio_core.zoo.load import load_model

if TYPE_CHECKING:
    from radio_core.models import RadioModel

DEFAULT_RESOLUTION = 224
NATIVE = "native"

_BAR_FROM = 5  # images: fewer need no progress bar
_LISTED = 20  # images whose shapes are printed
_WAITING_BATCHES = 4  # images that wait for others of their shape, in batches
_HEADER_BYTES = 500  # of one image in the file's header, without its path


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Run a model on images; write its summaries and features, or show the features as colours."""

    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files, folders (searched with all below them), or patterns such as "photos/*.jpg"."""
    model: str = "toy"
    """A release, a file or folder with a model, a hub id, or a teacher such as toy-dino."""
    adaptor: str = ""
    """Take the features of this adaptor ("clip", "dino_v2", "sam") instead of the backbone's."""
    resolution: str = ""
    """Pixels: "512" scales each image's shortest side to it; "432x768" (height x width) scales to
    cover it and cuts the centre out; "native" keeps each image's size, rounded to what the model
    takes. The shortest side of the model's preferred size if empty."""
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


class _Model(NamedTuple):
    """What is asked of a RADIO model or a teacher.

    Attributes:
        resize: brings an image to a size that the model takes.
        run: images [B, 3, H, W] in [0, 1] -> summaries [B, D] or None, features [B, C, h, w].
    """

    resize: Callable[[Image.Image], Image.Image]
    run: Callable[[Tensor], tuple[Tensor | None, Tensor]]


class _Results:
    """What is kept of the images: a line of text each, and pairs for the contact sheet."""

    def __init__(self, options: FeatureOptions, images: int) -> None:
        self.lines: dict[int, str] = {}
        self.pairs: dict[int, Pair] = {}
        self._shown = 0 if options.pca is None else min(images, MOST_PAIRS)

    def add(self, seen: _Seen, summary: Tensor | None, features: Tensor) -> None:
        """Note one image; its summary [D] or None and features [C, h, w] are not kept."""
        width = 0 if summary is None else len(summary)
        shape = " x ".join(str(side) for side in features.shape)
        self.lines[seen.number] = f"{printable(seen.path)}: summary {width}, features {shape}"
        if seen.number < self._shown:
            self.pairs[seen.number] = Pair(seen.image, shown_features(features, self._shown))


def main(argv: Sequence[str]) -> int:
    """Run `radio features IMAGE ...`; returns the exit code: 1 when no image could be read."""
    options = parse(FeatureOptions, argv, prog="radio features")
    if not options.images:
        raise UsageError("name at least one image")
    if options.batch_size < 1:
        raise UsageError(f"--batch-size {options.batch_size} must be at least 1")
    console, errors, skipped = Console(), Console(stderr=True), SkippedFiles()
    paths = list(_expanded(options.images, skipped))
    results = _Results(options, len(paths))
    model = _teacher(options) if is_teacher(options.model) else _radio(options, errors)
    try:
        _extract(options, model, paths, skipped, results, errors)
    except BaseException:  # also Ctrl-C
        if options.out is not None and results.lines:
            _say(errors, f"{options.out} holds the {len(results.lines)} images done so far")
        raise
    for number in range(min(len(results.lines), _LISTED)):
        _say(console, results.lines[number])
    if len(results.lines) > _LISTED:
        _say(console, f"... and {len(results.lines) - _LISTED} more images")
    for path, reason in skipped:
        _say(errors, f"skipped {printable(path)}: {reason}")
    if not results.lines:
        raise ValueError("no image could be read")
    if options.pca is not None:
        pairs = [results.pairs[number] for number in sorted(results.pairs)]
        options.pca.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(pairs).save(options.pca, "PNG")
        if len(pairs) < len(results.lines):
            _say(console, f"{options.pca} shows the first {len(pairs)} images")
    return 0


def _expanded(names: Sequence[str], skipped: SkippedFiles) -> Iterator[Path]:
    """The image files that files, folders and patterns stand for, in the order given."""
    for name in names:
        if Path(name).is_dir():
            try:
                files = ImageFiles(name)
            except FolderError as error:
                skipped.add(name, str(error))
                continue
            yield from (files.path(index) for index in range(len(files)))
        elif glob.has_magic(name) and not Path(name).exists():
            found = sorted(glob.glob(name, recursive=True))
            if not found:
                skipped.add(name, "no file fits this pattern")
            yield from (path for path in map(Path, found) if path.is_file())
        else:
            yield Path(name)


def _teacher(options: FeatureOptions) -> _Model:
    """A teacher; it brings every image to its own square size by itself."""
    for flag, value in (
        ("--adaptor", options.adaptor),
        ("--resolution", options.resolution),
        ("--window-size", options.window_size),
    ):
        if value:
            raise UsageError(f"{options.model!r} is a teacher: it has no {flag}; leave that out")
    device = _device(options)
    teacher = load_teacher(options.model).to(device)
    side = teacher.spec.input_size

    def run(images: Tensor) -> tuple[Tensor | None, Tensor]:
        output = teacher(images.to(device))
        return output.summary, output.features

    return _Model(lambda image: radio_resize(image, side, 1), run)


def _radio(options: FeatureOptions, errors: Console) -> _Model:
    """A RADIO model with the sizes and the adaptor that were asked for."""
    device = _device(options)
    names = (options.adaptor,) if options.adaptor else ()
    radio = load_model(
        options.model, adaptors=names, window_size=options.window_size, device=device
    )

    def run(images: Tensor) -> tuple[Tensor | None, Tensor]:
        outputs = radio.forward_all(images.to(device), names)
        output = outputs[options.adaptor or "backbone"]
        return output.summary, output.features

    return _Model(_Resize(radio, options.resolution, errors), run)


def _device(options: FeatureOptions) -> torch.device:
    """The device; "auto" is a GPU where there is one."""
    if options.device != "auto":
        return torch.device(options.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class _Resize:
    """Brings an image to the size at which the model sees it.

    Args:
        radio: the model.
        resolution: as in `FeatureOptions`.
        errors: is told, once, that an image was too large.

    Raises:
        UsageError: another form of resolution.
        ValueError: a size that the model does not take, or beyond its `max_resolution`.
    """

    def __init__(self, radio: "RadioModel", resolution: str, errors: Console) -> None:
        preferred = radio.preferred_resolution or (DEFAULT_RESOLUTION,)
        sides = resolution or str(min(preferred))
        if sides != NATIVE and not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", sides):
            raise UsageError(
                f"--resolution {resolution!r} must be one side (512), height x width (432x768), "
                f'or "{NATIVE}"'
            )
        self._radio, self._errors, self._warned = radio, errors, False
        self._sides = () if sides == NATIVE else tuple(map(int, sides.split("x")))
        limit = radio.max_resolution
        if limit is not None and max(self._sides, default=0) > limit:
            raise ValueError(
                f"--resolution {resolution}: {radio.config.name or 'the model'} is meant for at "
                f"most {limit} pixels a side (max_resolution)"
            )
        if len(self._sides) == 2:
            near = radio.nearest_supported_resolution(*self._sides)
            if near != self._sides:
                raise ValueError(
                    f"--resolution {resolution}: the nearest size that the model takes is "
                    f"{near.height}x{near.width}"
                )

    def __call__(self, image: Image.Image) -> Image.Image:
        """The resized 8-bit RGB image."""
        radio, step = self._radio, self._radio.min_resolution_step
        if len(self._sides) == 2:
            return radio_resize(image, self._sides, step)
        height, width = image.height, image.width
        if self._sides:
            height, width = radio_resize_size(height, width, self._sides, step)
        else:
            height, width = radio.nearest_supported_resolution(height, width)
        limit = radio.max_resolution
        if limit is not None and max(height, width) > limit:
            self._warn(limit)
            factor = limit / max(image.height, image.width)
            height, width = (
                max(1, int(side * factor) // step) * step for side in (image.height, image.width)
            )
        height, width = radio.nearest_supported_resolution(height, width)
        return image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)

    def _warn(self, limit: int) -> None:
        if not self._warned:
            self._warned = True
            _say(
                self._errors,
                f"warning: images whose longer side would exceed {limit} pixels, the model's "
                "max_resolution, are scaled down to it",
            )


def _extract(
    options: FeatureOptions,
    model: _Model,
    paths: Sequence[Path],
    skipped: SkippedFiles,
    results: _Results,
    errors: Console,
) -> None:
    """Run the model on every image, and write what it says as it comes."""
    with ExitStack() as stack:
        advance = stack.enter_context(_progress(errors, len(paths)))
        file = None if options.out is None else stack.enter_context(_file(options, paths))
        images = _read(paths, model, skipped, advance)
        for batch in _batches(images, options.batch_size):
            with torch.no_grad():
                tensors = torch.stack([to_tensor(seen.image) for seen in batch])
                summaries, features = model.run(tensors)
            for row, seen in enumerate(batch):
                summary = None if summaries is None else summaries[row]
                if file is not None:
                    _write(file, seen, summary, features[row])
                results.add(seen, summary, features[row])
                advance()


def _read(
    paths: Iterable[Path], model: _Model, skipped: SkippedFiles, advance: Callable[[], None]
) -> Iterator[_Seen]:
    """The readable images at the model's sizes; the others are recorded."""
    number = 0
    for path in paths:
        try:
            image = load_rgb(path)
        except UnreadableImage as error:
            skipped.add(error.path, error.reason)
            advance()
            continue
        yield _Seen(number, path, model.resize(image))
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
            fullest = max(waiting, key=lambda size: len(waiting[size]))
            yield waiting.pop(fullest)
    yield from waiting.values()


def _file(options: FeatureOptions, paths: Sequence[Path]) -> FeatureFile:
    """The file of `--out`, with room for every image."""
    assert options.out is not None
    about = {"model": options.model, "adaptor": options.adaptor or "backbone"}
    room = len(json.dumps(about)) + sum(
        _HEADER_BYTES + len(json.dumps(printable(path))) for path in paths
    )
    file = FeatureFile(options.out, room)
    file.metadata |= about
    return file


def _write(file: FeatureFile, seen: _Seen, summary: Tensor | None, features: Tensor) -> None:
    """Add what is known of one image."""
    file.metadata[str(seen.number)] = printable(seen.path)
    file.metadata[f"{seen.number}.size"] = f"{seen.image.height}x{seen.image.width}"
    file.add(f"{seen.number}.features", features)
    if summary is not None:
        file.add(f"{seen.number}.summary", summary)


@contextmanager
def _progress(console: Console, images: int) -> Iterator[Callable[[], None]]:
    """A progress bar, where there is something to wait for; yields what counts an image."""
    bar = Progress(
        TextColumn("images"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=images < _BAR_FROM,
    )
    task = bar.add_task("images", total=images, rate="")

    def advance() -> None:
        speed = bar.tasks[0].speed
        bar.update(task, advance=1, rate=f"{speed:.1f}/s" if speed else "")

    with bar:
        yield advance


def _say(console: Console, line: str) -> None:
    """Print one line as it is: no wrapping, no colours."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)
