"""The images of a run by name: what a source is, where it comes from, several of them mixed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from radio_core.data.storage import Storage, digest
from radio_core.registry import Registry

TOYWORLD = "toyworld"
SCENES = 6000
"""Scenes of the toy world unless a number is given."""

OPENERS: Registry[Any] = Registry("radio.data", "data source")
"""What opens a source, by the word before the first ":" of its name.

An entry point of the group `radio.data` is called as `opener(rest, storage)` with what follows
the ":". "module:attribute" of anybody's own code is a source, or is called without arguments for
one; in "module:attribute#ARGUMENT" it is called with that text.
"""


@runtime_checkable
class ImageSource(Protocol):
    """Anything that a trainer can draw images from, by index; it must survive pickling.

    A source may have more: `block_lengths()` (see `BlockSource`), `prefetch` (see
    `RemoteSource`), `layout()` (see `data_layout`), `identity()` (see `data_identity`) and
    `faults` (see the function `faults`).
    """

    def __len__(self) -> int:
        """Number of images, the unreadable ones included."""
        ...

    def read(self, index: int) -> Image.Image:
        """The image at `index`, from 0, as 8-bit RGB of any size.

        Raises:
            UnreadableImage: it cannot be read; another image takes its place.
        """
        ...


@runtime_checkable
class BlockSource(ImageSource, Protocol):
    """A source whose images are cheap to read near each other, such as those of one shard."""

    def block_lengths(self) -> np.ndarray:
        """Images in each block, int64 [blocks]: the blocks follow each other in the index."""
        ...


@runtime_checkable
class RemoteSource(ImageSource, Protocol):
    """A source that may have to fetch what it is asked for."""

    is_remote: bool

    def prefetch(self, index: int) -> None:
        """Begin to fetch an image that will soon be wanted, without waiting for it."""
        ...


class Mixture:
    """Sources one after the other in the index, each with its share of the samples.

    The shares say how often a sample comes from which source (`order.MixtureOrder` deals them
    out), not how the images are counted.

    Args:
        sources: at least two.
        weights: a positive number for each; None for shares in proportion to their sizes.

    Attributes:
        sources: as given.
        shares: of the samples, summing to 1.
        starts: index of the first image of each source, and the number of all images.
        is_remote: any of them is a `RemoteSource` that fetches.
    """

    def __init__(
        self, sources: Sequence[ImageSource], weights: Sequence[float] | None = None
    ) -> None:
        self.sources = tuple(sources)
        lengths = [len(source) for source in self.sources]
        wanted = lengths if weights is None else list(weights)
        if len(wanted) != len(lengths) or not min(wanted) > 0:
            raise ValueError(
                f"weights {wanted} must be one positive number for each of {len(lengths)} sources"
            )
        self.shares = [weight / sum(wanted) for weight in wanted]
        self.starts = [0, *np.cumsum(lengths).tolist()]
        remote = [part for part in self.sources if isinstance(part, RemoteSource)]
        self.is_remote = any(part.is_remote for part in remote)

    def __len__(self) -> int:
        """Number of images in all sources."""
        return int(self.starts[-1])

    def read(self, index: int) -> Image.Image:
        """See `ImageSource`."""
        source, place = self._locate(index)
        return source.read(place)

    def prefetch(self, index: int) -> None:
        """See `RemoteSource`."""
        source, place = self._locate(index)
        if isinstance(source, RemoteSource):
            source.prefetch(place)

    def _locate(self, index: int) -> tuple[ImageSource, int]:
        """The source of an image, and its index there."""
        number = int(np.searchsorted(self.starts, index, "right")) - 1
        return self.sources[number], index - self.starts[number]

    @property
    def faults(self) -> list[tuple[str, str]]:
        """Those of all sources."""
        return [fault for source in self.sources for fault in faults(source)]

    def layout(self) -> str:
        """See `data_layout`."""
        return f"mixture:{digest([[data_layout(part) for part in self.sources], self.shares])}"

    def identity(self) -> str:
        """See `data_identity`."""
        return f"mixture:{digest([[data_identity(part) for part in self.sources], self.shares])}"


def open_source(
    data: Sequence[str],
    weights: Sequence[float] = (),
    *,
    scenes: int = SCENES,
    storage: Storage | None = None,
) -> ImageSource:
    """Open the images of a run.

    Args:
        data: one or more of
            "toyworld" (`scenes` scenes of it) or "toyworld:SCENES";
            a folder, searched at any depth;
            "shards:PATTERN[#ending]", tar archives on disk or behind http(s) (`ShardImages`);
            "hf:PATH_OR_ID[@split][#column]", a Hugging Face dataset (`open_hugging_face`);
            "parquet:PATTERN[#column]", parquet files (`open_parquet`);
            "module:attribute[#ARGUMENT]", an `ImageSource` of your own code (`OPENERS`);
            the name of an installed package's entry point in `radio.data`, with ":REST" behind it.
        weights: how often a sample comes from which of them; by default in proportion to their
            numbers of images.
        scenes: see above.
        storage: where indexes and fetched shards are kept; None for the user's cache folder.

    Raises:
        ValueError: a source that is missing, damaged or without images, or weights that do not
            fit; the message names it and the fix.
        ImportError: a source needs an extra that is not installed.
    """
    if not data:
        raise ValueError(f"no training data: name a folder, or {TOYWORLD!r}")
    if weights and len(weights) != len(data):
        raise ValueError(
            f"{len(weights)} data weights for {len(data)} sources ({', '.join(data)}): give one "
            "for each"
        )
    storage = storage or Storage()
    named = [f"{TOYWORLD}:{scenes}" if name == TOYWORLD else name for name in data]
    sources = [_open(name, storage) for name in named]
    return sources[0] if len(sources) == 1 else Mixture(sources, weights or None)


def _open(name: str, storage: Storage) -> ImageSource:
    kind, colon, rest = name.partition(":")
    if kind in OPENERS and colon:
        source: Any = OPENERS.load(kind)(rest, storage)
    elif not Path(name).expanduser().exists() and _names_code(name):
        place, has_argument, argument = name.partition("#")
        source = OPENERS.load(place)
        if callable(source) and (isinstance(source, type) or not isinstance(source, ImageSource)):
            source = source(argument) if has_argument else source()
    else:
        source = OPENERS.load("folder")(name, storage)
    if not isinstance(source, ImageSource) or not len(source):
        lacks = "has no images" if isinstance(source, ImageSource) else "is no data source"
        raise ValueError(
            f"data {name!r} {lacks}: it must have __len__() and read(index), which returns a "
            "Pillow image"
        )
    return source


def _names_code(name: str) -> bool:
    """Whether it has the form "module:attribute", perhaps with "#ARGUMENT" behind it."""
    place = name.partition("#")[0]
    return place.count(":") == 1 and all(
        part.isidentifier() for part in place.replace(":", ".").split(".")
    )


def faults(source: ImageSource) -> list[tuple[str, str]]:
    """(path, reason) of what is known to be unreadable before anything is read."""
    return list(getattr(source, "faults", ()))


def data_layout(source: ImageSource) -> str:
    """A string that changes when other images are counted, or in another order.

    Two runs over the same layout with the same seed meet the same samples. The content of files
    is not looked at. A source without `layout()` is known by its class and its length.
    """
    layout: Callable[[], str] | None = getattr(source, "layout", None)
    kind = type(source)
    return layout() if layout else f"{kind.__module__}:{kind.__qualname__}:{len(source)}"


def data_identity(source: ImageSource) -> str:
    """As `data_layout`, and it changes with the size of any file: part of a cache's key."""
    identity: Callable[[], str] | None = getattr(source, "identity", None)
    return identity() if identity else data_layout(source)
