"""Images per second of models, measured in turns on random images."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from radio_core.bench.bare import bare_vit, has_bare_version
from radio_core.bench.timing import Activity, Timing, Watch, time_in_turns
from radio_core.models import (
    ERadioConfig,
    RadioConfig,
    RadioModel,
    ViTConfig,
    eradio_config,
    vit_config,
)
from radio_core.models.backbone import nearest_resolution
from radio_core.zoo.load import load_model

Engine = Literal["eager", "bare", "products"]
"""How a model is run.

- "eager": as users call it.
- "bare": the same mathematics as plain calls on its weights (`bare.BareViT.tokens`).
- "products": only the matrix products and the attention of it (`bare.BareViT.products`).
"""

RANDOM_PREFIX = "random:"
RANDOM_MODELS: dict[str, Callable[[], ViTConfig | ERadioConfig]] = {
    **{name: partial(vit_config, name) for name in ("tiny", "base", "large", "huge")},
    **{name: partial(eradio_config, name) for name in ("eradio", "eradio_xxxtiny")},
}
"""Shapes that can be measured without a checkpoint: name -> function that makes the config."""

_CASE = re.compile(r"(.+?)(?:@(\d{1,5})(?:x(\d{1,5}))?)?(?:\+w(\d{1,4})(?:/(\d{1,4}))?)?")
_RESOLUTION = re.compile(r"(\d{1,5})(?:x(\d{1,5}))?")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to measure.

    Attributes:
        model: "random:base" and so on (`RANDOM_MODELS`), or anything that `load_model` takes.
        height: of the images, in pixels.
        width: of the images, in pixels.
        window_size: side of the attention windows in patches; None for global attention.
        num_windowed: windowed layers between two global ones; None for the model's own schedule.
        batch_size: images a call.
        engine: how the model is run.
    """

    model: str
    height: int
    width: int
    window_size: int | None = None
    num_windowed: int | None = None
    batch_size: int = 1
    engine: Engine = "eager"

    def __post_init__(self) -> None:
        preset = self.model.removeprefix(RANDOM_PREFIX)
        if preset != self.model and preset not in RANDOM_MODELS:
            known = ", ".join(RANDOM_PREFIX + name for name in RANDOM_MODELS)
            raise ValueError(f"unknown shape {self.model!r}; known: {known}")
        if self.batch_size < 1:
            raise ValueError(f"batch size must be at least 1, not {self.batch_size}")

    @property
    def name(self) -> str:
        """MODEL@RESOLUTION[+wWINDOW[/NUM_WINDOWED]]."""
        square = self.height == self.width
        size = f"{self.height}" if square else f"{self.height}x{self.width}"
        window = "" if self.window_size is None else f"+w{self.window_size}"
        schedule = "" if self.num_windowed is None else f"/{self.num_windowed}"
        return f"{self.model}@{size}{window}{schedule}"


def parse_cases(
    models: Sequence[str],
    resolutions: Sequence[str],
    batch_sizes: Sequence[int],
    window_size: int | None = None,
) -> list[Case]:
    """Every model at every resolution and batch size.

    Args:
        models: MODEL[@RESOLUTION][+wWINDOW[/NUM_WINDOWED]], where RESOLUTION is SIDE or
            HEIGHTxWIDTH in pixels, and NUM_WINDOWED layers are windowed between two global ones;
            what is given here wins over the other arguments, "+w0" is global attention.
        resolutions: for models without their own.
        batch_sizes: images a call.
        window_size: for models without their own; None for global attention.

    Raises:
        ValueError: an unknown random model, or a resolution that is none.
    """
    cases = []
    for text in models:
        match = _CASE.fullmatch(text)
        if match is None:
            raise ValueError(f"not MODEL[@RESOLUTION][+wWINDOW[/NUM_WINDOWED]]: {text!r}")
        model, height, width, window, schedule = match.groups()
        sizes = [_resolution(side) for side in resolutions]
        if height is not None:
            sizes = [(int(height), int(width or height))]
        side = window_size if window is None else int(window)
        cases += [
            Case(
                model=model,
                height=h,
                width=w,
                window_size=side or None,
                num_windowed=None if schedule is None else int(schedule),
                batch_size=batch,
            )
            for h, w in sizes
            for batch in batch_sizes
        ]
    return cases


def _resolution(text: str) -> tuple[int, int]:
    match = _RESOLUTION.fullmatch(text)
    if match is None:
        raise ValueError(f"a resolution is SIDE or HEIGHTxWIDTH in pixels, not {text!r}")
    return int(match[1]), int(match[2] or match[1])


@dataclass(frozen=True)
class Throughput:
    """How fast one case was.

    Attributes:
        case: what was measured.
        timing: seconds of a call.
        ratios: baseline -> median of the case / median of the baseline. Baselines are "bare" and
            "products" (the same case with that engine), the name of another case, and "earlier".
    """

    case: Case
    timing: Timing
    ratios: Mapping[str, float]

    @property
    def images_per_second(self) -> float:
        """Images of a batch / median time."""
        return self.case.batch_size / self.timing.median

    def as_json(self) -> dict[str, Any]:
        """The case, medians in milliseconds, spread in percent, throughput and ratios."""
        return {
            "name": self.case.name,
            **vars(self.case),
            "ms": round(1000 * self.timing.median, 3),
            "spread_percent": round(100 * self.timing.spread, 2),
            "images_per_second": round(self.images_per_second, 3),
            "ratios": {name: round(ratio, 4) for name, ratio in self.ratios.items()},
        }


def measure(
    cases: Sequence[Case],
    *,
    repeats: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    deploy: bool = False,
    bare: bool = False,
    watch: Watch = iter,
) -> dict[Case, Timing]:
    """Time the cases in turns, after two turns for warming up.

    Args:
        cases: what to measure; the models stay in memory together.
        repeats: measured turns, at least 2.
        device: where to run.
        dtype: of the backbones.
        deploy: fuse what only training needs (`RadioModel.switch_to_deploy`).
        bare: also measure the engines "products" and "bare" of each ViT with global attention.
        watch: shows the progress of the turns.

    Returns:
        Each case, and where asked for its bare versions, -> its timing.

    Raises:
        ValueError: an unknown model, or a size or windows that it does not take.
    """
    shapes = dict.fromkeys((case.model, case.num_windowed) for case in cases)
    models = {shape: _open_model(*shape, device, dtype, deploy) for shape in shapes}
    for case in cases:
        _check(case, models[case.model, case.num_windowed])
    activities: dict[Case, Activity] = {}
    with torch.inference_mode():
        for case in cases:
            model = models[case.model, case.num_windowed]
            images = torch.rand(case.batch_size, 3, case.height, case.width, device=device)
            if bare and case.window_size is None and has_bare_version(model):
                activities |= _bare_activities(case, model, images)
            activities[case] = partial(model, images, window_size=case.window_size or 0)
        return time_in_turns(activities, repeats, device=device, watch=watch)


def _open_model(
    name: str, num_windowed: int | None, device: torch.device, dtype: torch.dtype, deploy: bool
) -> RadioModel:
    preset = name.removeprefix(RANDOM_PREFIX)
    if preset == name:
        model = load_model(name, num_windowed=num_windowed, device=device, dtype=dtype)
    else:
        backbone = RANDOM_MODELS[preset]()
        if num_windowed is not None and isinstance(backbone, ViTConfig):
            backbone = replace(backbone, num_windowed=num_windowed)
        windows = isinstance(backbone, ViTConfig)
        model = RadioModel(RadioConfig(backbone=backbone, supports_windows=windows)).eval()
        model.backbone.to(dtype)
        model.to(device)
    return model.switch_to_deploy() if deploy else model


def _check(case: Case, model: RadioModel) -> None:
    height, width, window = case.height, case.width, case.window_size
    nearest = model.nearest_supported_resolution(height, width)
    if window is not None:
        if not model.config.supports_windows:
            raise ValueError(f"{case.model} has no windowed mode: measure it without windows")
        nearest = nearest_resolution(height, width, model.min_resolution_step * window)
    if nearest != (height, width):
        raise ValueError(
            f"{case.name}: the model does not take {height}x{width} pixels; the nearest size "
            f"that it takes is {nearest.height}x{nearest.width}"
        )


def _bare_activities(case: Case, model: RadioModel, images: torch.Tensor) -> dict[Case, Activity]:
    vit = bare_vit(model, *(images.shape[i] for i in (0, 2, 3)))
    tokens = torch.randn_like(vit.tokens(images))
    cast = images.to(tokens.dtype)
    return {
        replace(case, engine="products"): lambda: vit.products(cast, tokens),
        replace(case, engine="bare"): lambda: vit.tokens(images),
    }


def compare(
    timings: Mapping[Case, Timing],
    baseline: str = "",
    earlier: Mapping[Case, float] | None = None,
) -> list[Throughput]:
    """The timings with their ratios to whatever they can be compared with.

    Args:
        timings: as `measure` returns them.
        baseline: name of the case that the others, at the same batch size, are compared with.
        earlier: medians in seconds of an earlier run.

    Raises:
        ValueError: no case has the name of the baseline.
    """
    if baseline:
        check_baseline(baseline, timings)
    rows = []
    for case, timing in timings.items():
        others: dict[str, float] = {}
        if case.engine == "eager":
            for engine in ("products", "bare"):
                if (same := replace(case, engine=engine)) in timings:
                    others[engine] = timings[same].median
        for other in timings:
            wanted = (baseline, "eager", case.batch_size)
            if other != case and (other.name, other.engine, other.batch_size) == wanted:
                others[baseline] = timings[other].median
        if earlier and case in earlier:
            others["earlier"] = earlier[case]
        ratios = {name: timing.median / median for name, median in others.items()}
        rows.append(Throughput(case, timing, ratios))
    return rows


def check_baseline(baseline: str, cases: Iterable[Case]) -> None:
    """Raise ValueError, listing the names, unless `baseline` is the name of a case."""
    names = list(dict.fromkeys(case.name for case in cases))
    if baseline not in names:
        raise ValueError(f"baseline {baseline!r} is not measured; measured: {', '.join(names)}")


def read_medians(path: Path) -> dict[Case, float]:
    """The medians, in seconds, in a file that `radio bench throughput --json` wrote.

    Raises:
        ValueError: another kind of file.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        fields = Case.__dataclass_fields__
        return {Case(**{field: row[field] for field in fields}): row["ms"] / 1000 for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no result of radio bench throughput: {error!r}") from None
