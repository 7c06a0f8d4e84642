"""Image encoders of Segment Anything with random weights: its own, and RADIO in their place.

Both end behind SAM's neck, as in the paper's Table 8.
"""

from dataclasses import replace

from torch import Tensor, nn

from radio_core.models import AdaptorConfig, HeadConfig, RadioConfig, RadioModel
from radio_core.open import RANDOM, random_backbone
from radio_core.teachers.base import Teacher
from radio_core.teachers.segment_anything import SamConfig, build_sam
from radio_core.vision import ModelSpec, Output

SAM_SHAPES = {
    "sam-b": SamConfig(),
    "sam-l": SamConfig(embed_dim=1024, depth=24, num_heads=16, global_blocks=(5, 11, 17, 23)),
    "sam-h": SamConfig(embed_dim=1280, depth=32, num_heads=16, global_blocks=(7, 15, 23, 31)),
}
"""Sizes of the published models."""

RADIO_SHAPES = {
    f"sam-with-{name}": preset
    for name, preset in (
        ("radio-b", "base"),
        ("radio-l", "large"),
        ("radio-h", "huge"),
        ("e-radio-l", "eradio"),
    )
}
"""Name -> preset of `radio_core.open.random_backbone`."""

RANDOM_SAM = {RANDOM + name: name for name in (*SAM_SHAPES, *RADIO_SHAPES)}
"""Source -> name of all of these encoders."""

_NECK_WIDTH = 1280  # of the features that imitate those of SAM ViT-H before its neck


class SamEncoder(Teacher):
    """Images of one size, already normalised, to embeddings [B, 256, R / 16, R / 16].

    RADIO has its adaptor for SAM ViT-H and that model's neck, as it runs in SAM. The side R is a
    multiple of 16 (and of the windows); `window_size` in patches is for RADIO alone.
    """

    def __init__(self, name: str, resolution: int, window_size: int | None = None) -> None:
        backbone = random_backbone(RADIO_SHAPES[name]) if name in RADIO_SHAPES else None
        if window_size and (backbone is None or not backbone.supports_windows):
            raise ValueError(f"{name} has windows of its own: measure it without +w{window_size}")
        neck_dim = SamConfig().neck_dim
        super().__init__(
            ModelSpec(
                name=name,
                input_size=resolution,
                patch_size=16,
                summary_dim=None,
                feature_dim=neck_dim,
            )
        )
        self.radio: RadioModel | None = None
        self.encoder: nn.Module
        if backbone is None:
            self.encoder = build_sam(replace(SAM_SHAPES[name], image_size=resolution)).image_encoder
            return
        head = HeadConfig(out_dim=_NECK_WIDTH, hidden_dim=_NECK_WIDTH)
        adaptor = AdaptorConfig(name="sam", features=head)
        self.radio = RadioModel(RadioConfig(backbone=backbone, adaptors=(adaptor,)))
        self.radio.eval().switch_to_deploy().window_size = window_size
        sam = build_sam(SamConfig(image_size=64, embed_dim=_NECK_WIDTH, depth=1, num_heads=16))
        self.encoder = sam.image_encoder.neck

    def extract(self, images: Tensor) -> Output:
        """No summary; the embeddings."""
        if self.radio is not None:
            outputs = self.radio.forward_all(images, ("sam",))
            images = outputs["sam"].features.to(images.dtype)
        return Output(None, self.encoder(images))
