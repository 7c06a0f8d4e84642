"""SAM's image encoders against RADIO in their place (paper Table 8), with random weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from radio_core.bench.timing import Activity, Timing, Watch, time_in_turns
from radio_core.models import (
    AdaptorConfig,
    ERadioConfig,
    HeadConfig,
    RadioConfig,
    RadioModel,
    ViTConfig,
    eradio_config,
    vit_config,
)
from radio_core.teachers.segment_anything import SamConfig, build_sam

SAM_MODELS = {
    "sam-b": SamConfig(),
    "sam-l": SamConfig(embed_dim=1024, depth=24, num_heads=16, global_blocks=(5, 11, 17, 23)),
    "sam-h": SamConfig(embed_dim=1280, depth=32, num_heads=16, global_blocks=(7, 15, 23, 31)),
}
"""Sizes of the published models."""

RADIO_MODELS: dict[str, Callable[[], ViTConfig | ERadioConfig]] = {
    "radio-b": partial(vit_config, "base"),
    "radio-l": partial(vit_config, "large"),
    "radio-h": partial(vit_config, "huge"),
    "e-radio-l": partial(eradio_config, "eradio"),
}

BASELINE = "sam-h"
PAPER_MODELS = ("sam-b", "sam-l", "sam-h", "e-radio-l", "radio-h+w8", "radio-h+w16", "radio-h")
PAPER_IMAGES_PER_SECOND = {
    "sam-b": 50.94,
    "sam-l": 20.62,
    "sam-h": 11.83,
    "e-radio-l": 121.74,
    "radio-h+w8": 29.09,
    "radio-h+w16": 27.91,
}
"""Table 8, at 1024 x 1024 on a GPU with TensorRT."""

_NECK_WIDTH = 1280  # of the features that imitate those of SAM ViT-H before its neck


@dataclass(frozen=True)
class SamEncoderTime:
    """How fast one encoder was.

    Attributes:
        name: as in `bench_sam`.
        timing: seconds an image.
        speedup: median of the baseline / median of this one; None where it was not measured.
        paper_speedup: the same ratio of the throughputs in Table 8, where it has both.
    """

    name: str
    timing: Timing
    speedup: float | None
    paper_speedup: float | None

    def as_json(self) -> dict[str, Any]:
        """Median in milliseconds, spread in percent, and the ratios."""
        return {
            "name": self.name,
            "ms": round(1000 * self.timing.median, 2),
            "spread_percent": round(100 * self.timing.spread, 2),
            "speedup": None if self.speedup is None else round(self.speedup, 4),
            "paper_speedup": None if self.paper_speedup is None else round(self.paper_speedup, 4),
        }


@torch.inference_mode()
def bench_sam(
    names: Sequence[str],
    *,
    resolution: int,
    repeats: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    watch: Watch = iter,
) -> list[SamEncoderTime]:
    """Time encoders in turns, from a normalised image to the embedding behind SAM's neck.

    RADIO is measured with its adaptor for SAM ViT-H and that model's neck, as it runs in SAM.

    Args:
        names: "sam-b|l|h", "radio-b|l|h" or "e-radio-l"; a RADIO ViT with "+w8" attends in windows
            of 8 patches.
        resolution: side in pixels of the square image; a multiple of 16 (and of the windows).
        repeats: measured turns, at least 2.
        device: where to run.
        dtype: of the encoders.
        watch: shows the progress of the turns.

    Raises:
        ValueError: an unknown name, or a resolution that an encoder does not take.
    """
    images = torch.rand(1, 3, resolution, resolution, device=device, dtype=dtype)
    activities: dict[str, Activity] = {}
    for name in dict.fromkeys(names):
        encoder = sam_encoder(name, resolution).eval().to(device, dtype)
        activities[name] = partial(encoder, images)
    timings = time_in_turns(activities, repeats, warmup=1, device=device, watch=watch)
    return [_compared(name, timings) for name in timings]


def _compared(name: str, timings: dict[str, Timing]) -> SamEncoderTime:
    speedup = paper = None
    if BASELINE in timings:
        speedup = timings[BASELINE].median / timings[name].median
    if name in PAPER_IMAGES_PER_SECOND:
        paper = PAPER_IMAGES_PER_SECOND[name] / PAPER_IMAGES_PER_SECOND[BASELINE]
    return SamEncoderTime(name, timings[name], speedup, paper)


def sam_encoder(name: str, resolution: int) -> nn.Module:
    """A module from [1, 3, R, R] to the embedding, with random weights."""
    kind, _, window = name.partition("+w")
    if kind in SAM_MODELS and not window:
        encoder: nn.Module = build_sam(
            replace(SAM_MODELS[kind], image_size=resolution)
        ).image_encoder
        return encoder
    if kind not in RADIO_MODELS or (window and not window.isdigit()):
        known = ", ".join((*SAM_MODELS, *RADIO_MODELS))
        raise ValueError(f"unknown encoder {name!r}; known: {known}, and RADIO ViTs with +wWINDOW")
    backbone = RADIO_MODELS[kind]()
    if window and backbone.own_windows:
        raise ValueError(f"{kind} has windows of its own: measure it without +w{window}")
    head = HeadConfig(out_dim=_NECK_WIDTH, hidden_dim=_NECK_WIDTH)
    adaptor = AdaptorConfig(name="sam", features=head)
    radio = RadioModel(RadioConfig(backbone=backbone, adaptors=(adaptor,)))
    return _RadioEncoder(radio, int(window or 0))


class _RadioEncoder(nn.Module):
    """RADIO, its adaptor for SAM, and a neck like SAM's."""

    def __init__(self, radio: RadioModel, window_size: int) -> None:
        super().__init__()
        self.radio = radio.eval().switch_to_deploy()
        self.window_size = window_size
        sam = build_sam(SamConfig(image_size=64, embed_dim=_NECK_WIDTH, depth=1, num_heads=16))
        self.neck = sam.image_encoder.neck

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, R, R] to [B, 256, R / 16, R / 16]."""
        outputs = self.radio.forward_all(images, ("sam",), "NCHW", self.window_size)
        embedding: Tensor = self.neck(outputs["sam"].features.to(images.dtype))
        return embedding
