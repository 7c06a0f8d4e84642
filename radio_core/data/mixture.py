"""Several image sources as one, each with its share of the samples."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from radio_core.data.folder import ImageFiles
from radio_core.data.images import ImageSource, RemoteSource, UnreadableImage


class Mixture:
    """Sources one after the other in the index; satisfies `ImageSource`.

    The shares say how often a sample comes from which source (`order.MixtureOrder` deals them
    out), not how the images are counted.

    Args:
        sources: at least two.
        weights: a positive number for each; None for shares in proportion to their sizes.

    Attributes:
        sources: as given.
        shares: of the samples, summing to 1.
        starts: index of the first image of each source, and the number of all images.
        is_remote: whether any of them is a `RemoteSource` that fetches.

    Raises:
        ValueError: weights that do not fit.
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

    def load(self, index: int) -> Image.Image:
        """The image at `index` as 8-bit RGB. Raises UnreadableImage."""
        source, place = self.locate(index)
        return read_image(source, place)

    def prefetch(self, index: int) -> None:
        """See `RemoteSource`."""
        source, place = self.locate(index)
        if isinstance(source, RemoteSource):
            source.prefetch(place)

    def locate(self, index: int) -> tuple[ImageSource, int]:
        """The source of an image, and its index there."""
        number = int(np.searchsorted(self.starts, index, "right")) - 1
        return self.sources[number], index - self.starts[number]


def read_image(source: ImageSource, index: int) -> Image.Image:
    """An image of any source as 8-bit RGB; a folder's own record of faults is left alone.

    Raises:
        UnreadableImage: with the name and the reason.
    """
    if isinstance(source, ImageFiles):
        return source.read(index)
    image = source.load(index)
    if image is None:
        raise UnreadableImage(f"image {index}", "broken")
    return image
