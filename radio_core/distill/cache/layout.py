"""What a cache holds and how large that is."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from radio_core.distill.cache.codec import FLOATS, OFFSET, SCALE
from radio_core.distill.config import CacheDtype
from radio_core.vision import ModelSpec

IMAGES = "images"
_SHARD_BYTES = 256 * 1000**2  # of which about so much is in memory while a shard is written
_MAX_SHARD_VIEWS = 256

Tensors = dict[str, tuple[torch.dtype, tuple[int, ...]]]


@dataclass(frozen=True)
class CacheLayout:
    """The tensors of one view: name -> (dtype, shape).

    "images" [3, S, S] uint8, "<teacher>.features" [C, h, w], and where there are such
    "<teacher>.features.scale" and ".offset" [C] (int8) and "<teacher>.summary" [D].

    Attributes:
        tensors: all of them.
    """

    tensors: Tensors

    @classmethod
    def of(
        cls, specs: Mapping[str, ModelSpec], image_size: int, dtype: CacheDtype, downsample: int
    ) -> "CacheLayout":
        """The layout for these teachers and for images of `image_size` pixels."""
        tensors: Tensors = {IMAGES: (torch.uint8, (3, image_size, image_size))}
        for name, spec in specs.items():
            side = -(-spec.grid()[0] // downsample)
            stored = FLOATS.get(dtype, torch.int8)
            tensors[f"{name}.features"] = (stored, (spec.feature_dim, side, side))
            if dtype == "int8":
                for part in (SCALE, OFFSET):
                    tensors[f"{name}.features.{part}"] = (torch.float32, (spec.feature_dim,))
            if spec.summary_dim is not None:
                summary = torch.float32 if dtype == "float32" else torch.float16
                tensors[f"{name}.summary"] = (summary, (spec.summary_dim,))
        return cls(tensors)

    @property
    def view_bytes(self) -> int:
        """Size of one view on disk."""
        return sum(self.shares().values())

    @property
    def shard_views(self) -> int:
        """Views in one file: few enough that a file being written fits in memory."""
        return max(1, min(_MAX_SHARD_VIEWS, _SHARD_BYTES // self.view_bytes))

    def shares(self) -> dict[str, int]:
        """Bytes of one view: "images", then each teacher."""
        shares: dict[str, int] = {}
        for name, (dtype, shape) in self.tensors.items():
            owner = name.split(".")[0]
            size = dtype.itemsize * int(torch.Size(shape).numel())
            shares[owner] = shares.get(owner, 0) + size
        return shares
