"""Tiny Segment Anything models and RADIO models that fit them."""

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from radio_core.models import AdaptorConfig, HeadConfig, RadioConfig, RadioModel, vit_config
from radio_core.models.eradio import eradio_config
from radio_core.vision import Output

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

WIDTH = 24


class OracleRadio(nn.Module):
    """A RADIO whose sam adaptor gives SAM's own features before the neck, to the last bit.

    Of the images in [0, 1] it recovers the bytes that they were made of, so that SAM's encoder
    gets the very numbers that it gets in the original model.
    """

    window_size = None

    def __init__(self, sam: "Sam") -> None:
        super().__init__()
        self.encoder = copy.deepcopy(sam.image_encoder)
        self.encoder.neck = nn.Identity()
        self.mean, self.std = sam.pixel_mean, sam.pixel_std
        self.patch_size = self.encoder.patch_embed.proj.kernel_size[0]
        self.min_resolution_step = self.patch_size
        self.adaptors = nn.ModuleDict({"sam": nn.Identity()})
        self.seen: list[Tensor] = []

    def forward_all(
        self, images: Tensor, adaptors: Sequence[str], **options: Any
    ) -> dict[str, Output]:
        self.seen.append(images)
        pixels = images * 255
        padding = (pixels - self.mean).abs().amax(dim=1, keepdim=True) < 1e-3
        normalised = ((pixels.round() - self.mean) / self.std).masked_fill(padding, 0)
        return {"sam": Output(None, self.encoder(normalised))}


@pytest.fixture(scope="session")
def make_sam() -> "Callable[..., Sam]":
    """Builds a random Sam of 128 pixels, patches of 8 and width 24; keywords replace its sizes."""
    pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
    from radio_core.teachers.segment_anything import SamConfig, build_sam

    def make(**changes: Any) -> "Sam":
        sizes: dict[str, Any] = {"image_size": 128, "patch_size": 8, "embed_dim": WIDTH, "depth": 2}
        sizes |= {"num_heads": 2, "window_size": 8, "global_blocks": (1,), "neck_dim": 16}
        sizes |= {"decoder_heads": 2, "decoder_mlp_dim": 16}
        torch.manual_seed(0)
        sam = build_sam(SamConfig(**(sizes | changes)))
        nn.init.normal_(sam.image_encoder.pos_embed, std=0.1)
        return sam.eval()

    return make


@pytest.fixture(scope="session")
def sam(make_sam: "Callable[..., Sam]") -> "Sam":
    """The Sam of `make_sam`; not to be changed."""
    return make_sam()


@pytest.fixture(scope="session")
def make_oracle() -> "Callable[[Sam], OracleRadio]":
    """Builds an `OracleRadio` of a Sam."""
    return OracleRadio


@pytest.fixture(scope="session")
def make_student() -> Callable[..., RadioModel]:
    """Builds a random RADIO with a sam adaptor: (patch_size, feature_dim, upsample, e_radio)."""

    def make(
        patch_size: int = 8, feature_dim: int = WIDTH, upsample: int = 1, e_radio: bool = False
    ) -> RadioModel:
        torch.manual_seed(1)
        head = HeadConfig(out_dim=feature_dim, hidden_dim=16)
        adaptor = AdaptorConfig(name="sam", features=head, upsample=upsample)
        backbone: Any = vit_config(
            "tiny", patch_size=patch_size, embed_dim=32, depth=2, stem="patch", num_windowed=1
        )
        if e_radio:
            backbone = eradio_config("eradio_xxxtiny", dim=16)
        return RadioModel(RadioConfig(backbone=backbone, adaptors=(adaptor,))).eval()

    return make


@pytest.fixture(scope="session")
def picture() -> Callable[[int, int], NDArray[np.uint8]]:
    """Builds a picture uint8 [height, width, 3] of noise."""

    def make(height: int, width: int) -> NDArray[np.uint8]:
        generator = np.random.default_rng(0)
        return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)

    return make
