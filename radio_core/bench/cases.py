"""What `radio bench throughput` can measure, and how it is named."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from radio_core.bench.sam import RANDOM_SAM
from radio_core.export.runtime import SUFFIXES
from radio_core.open import RANDOM, random_backbone

Engine = Literal[
    "eager",
    "channels-last",
    "compile",
    "onnxruntime",
    "tensorrt",
    "torch.export",
    "bare",
    "products",
    "matmul",
]
"""How a model is run.

- "eager": as users call it.
- "channels-last": the same, with weights and images in that layout of memory.
- "compile": through `torch.compile`.
- "onnxruntime", "tensorrt": exported, compared with the model, and run by that.
- "torch.export": a file of `radio export torch`.
- "bare": the same mathematics as plain calls on its weights (`bare.BareViT.tokens`).
- "products": only the matrix products and the attention of it (`bare.BareViT.products`).
- "matmul": no model, but one large matrix product: what the device can do.
"""
ModelEngine = Literal["eager", "channels-last", "compile", "onnxruntime", "tensorrt"]
"""The engines that can be chosen for a model."""
_FILE_ENGINES: dict[str, Engine] = dict(
    zip(SUFFIXES, ("onnxruntime", "tensorrt", "torch.export"), strict=True)
)

Dtype = Literal["float32", "bfloat16", "float16"]

_CASE = re.compile(r"(.+?)(?:@(\d{1,5})(?:x(\d{1,5}))?)?(?:\+w(\d{1,4})(?:/(\d{1,4}))?)?")
_RESOLUTION = re.compile(r"(\d{1,5})(?:x(\d{1,5}))?")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to measure.

    `model` is whatever `radio_core.open_model` takes, or the image encoder of a Segment Anything
    (`radio_core.bench.sam.RANDOM_SAM`). `window_size` in patches: None for global attention, or an
    E-RADIO's own; `num_windowed` layers between two global ones: None for the model's own schedule.
    `dtype` is that in which it computes; of a RADIO model the backbone.
    """

    model: str
    height: int
    width: int
    window_size: int | None = None
    num_windowed: int | None = None
    batch_size: int = 1
    engine: Engine = "eager"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        if self.model.startswith(RANDOM) and self.model not in RANDOM_SAM:
            random_backbone(self.model.removeprefix(RANDOM))
        if self.batch_size < 1:
            raise ValueError(f"batch size must be at least 1, not {self.batch_size}")
        if self.engine == "onnxruntime" and self.dtype == "bfloat16":
            raise ValueError("onnxruntime does not run bfloat16: use float32 or float16")

    @property
    def name(self) -> str:
        """MODEL@RESOLUTION[+wWINDOW[/NUM_WINDOWED]]."""
        square = self.height == self.width
        size = f"{self.height}" if square else f"{self.height}x{self.width}"
        window = "" if self.window_size is None else f"+w{self.window_size}"
        schedule = "" if self.num_windowed is None else f"/{self.num_windowed}"
        return f"{self.model}@{size}{window}{schedule}"

    @property
    def how(self) -> str:
        """Engine and precision where they are not the usual ones, for people."""
        parts = (self.engine if self.engine != "eager" else "", self.dtype)
        return ", ".join(part for part in parts if part not in ("", "float32"))


def parse_cases(
    models: Sequence[str],
    resolutions: Sequence[str],
    batch_sizes: Sequence[int],
    window_size: int | None = None,
    engines: Sequence[Engine] = ("eager",),
    dtypes: Sequence[Dtype] = ("float32",),
) -> list[Case]:
    """Every model at every resolution, batch size and precision, on every engine.

    What a model names itself (MODEL[@RESOLUTION][+wWINDOW[/NUM_WINDOWED]], RESOLUTION as SIDE or
    HEIGHTxWIDTH in pixels) wins over the other arguments; "+w0" is global attention. An exported
    file has an engine and a precision of its own.
    """
    default_sizes = []
    for text in resolutions:
        match = _RESOLUTION.fullmatch(text)
        if match is None:
            raise ValueError(f"a resolution is SIDE or HEIGHTxWIDTH in pixels, not {text!r}")
        default_sizes.append((int(match[1]), int(match[2] or match[1])))
    cases = []
    for text in models:
        match = _CASE.fullmatch(text)
        if match is None:
            raise ValueError(f"not MODEL[@RESOLUTION][+wWINDOW[/NUM_WINDOWED]]: {text!r}")
        model, height, width, window, schedule = match.groups()
        sizes = default_sizes if height is None else [(int(height), int(width or height))]
        side = window_size if window is None else int(window)
        own = _FILE_ENGINES.get(Path(model).suffix)
        cases += [
            Case(
                model=model,
                height=h,
                width=w,
                window_size=side or None,
                num_windowed=None if schedule is None else int(schedule),
                batch_size=batch,
                engine=engine,
                dtype=dtype,
            )
            for h, w in sizes
            for batch in batch_sizes
            for dtype in (dtypes if own is None else dtypes[:1])
            for engine in (engines if own is None else (own,))
        ]
    return cases
