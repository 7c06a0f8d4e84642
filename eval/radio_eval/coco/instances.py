"""A COCO split: its images with the boxes and masks on them, crowds included."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from radio_core.data.folder import FolderError
from radio_core.data.images import UnreadableImage, load_rgb
from radio_eval.coco.annotations import CocoAnnotations


class CocoInstances(CocoAnnotations):
    """Images of one COCO split with their annotations.

    Args:
        root: folder with annotations/instances_<split>.json and the images in <split>/.
        split: e.g. "val2017".
        limit: only the first images with annotations, by id; None for all.

    Attributes:
        split: as given.
        limit: as given.
        image_ids: the images that have annotations, ascending, `limit` of them.

    Raises:
        FolderError: a missing or invalid annotation file, or no usable annotations in it.
        ValueError: a limit below 1.
    """

    def __init__(self, root: Path, split: str = "val2017", limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        super().__init__(root / "annotations" / f"instances_{split}.json")
        self.split = split
        self.limit = limit
        self._folder = root / split
        self.image_ids = self.first_images()
        if not self.image_ids:
            raise FolderError(
                f"no annotations of known images in instances_{split}.json of {root}"
                + (f" ({len(self.skipped)} are broken)" if self.skipped else "")
            )

    def first_images(self, also: Collection[int] = ()) -> list[int]:
        """The images that have annotations or are in `also`, ascending, `limit` of them."""
        return sorted({*self.instances_of, *also})[: self.limit]

    def image(self, image_id: int) -> np.ndarray:
        """The image as uint8 [H, W, 3], RGB.

        Raises:
            UnreadableImage: no readable image, or one of another size than the annotations say.
        """
        record = self.records[image_id]
        path = self._folder / record.file_name
        # COCO counts the pixels as they are stored, and so do the reference evaluators.
        pixels = np.array(load_rgb(path, upright=False), dtype=np.uint8)  # [H, W, 3]
        expected = (record.height, record.width)
        if pixels.shape[:2] != expected:
            raise UnreadableImage(
                path, f"broken: {pixels.shape[:2]} pixels, but the annotations say {expected}"
            )
        return pixels
