"""Images per second of models, measured in turns on random images."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch

from radio_core.bench.activities import (
    Workbench,
    check_engine,
    matmul_activity,
    matmul_case,
    matmul_flops,
)
from radio_core.bench.cases import Case, Engine, ModelEngine
from radio_core.bench.timing import Activity, Timing, time_in_turns
from radio_core.progress import Progress, silent

_COMPARED: dict[Engine, tuple[Engine, ...]] = {
    "eager": ("products", "bare"),
    **dict.fromkeys(get_args(ModelEngine)[1:], ("eager",)),
}
"""Engine -> those that it is compared with on the same case."""
_SHAPES = 64
"""Shapes of images for which `torch.compile` may compile the same code."""


@dataclass(frozen=True)
class Throughput:
    """How fast one case was.

    `flops` of a call as torch counts them, None where unknown; `parameters` None for a file.
    `ratios`: baseline -> median of the case / median of the baseline, where baselines are
    "eager", "bare" and "products" (the same case with that engine), the name of another case,
    and "earlier". `peak_share`: operations a second / those of one large matrix product in the
    same precision.
    """

    case: Case
    timing: Timing
    flops: float | None = None
    parameters: int | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)
    peak_share: float | None = None

    @property
    def images_per_second(self) -> float:
        """Images of a batch / median time."""
        return self.case.batch_size / self.timing.median

    def as_json(self) -> dict[str, Any]:
        """The case, medians in milliseconds, spread in percent, throughput and ratios."""
        share = self.peak_share
        return {
            "name": self.case.name,
            **vars(self.case),
            "parameters": self.parameters,
            "ms": round(1000 * self.timing.median, 3),
            "spread_percent": round(100 * self.timing.spread, 2),
            "images_per_second": round(self.images_per_second, 3),
            "ratios": {name: round(ratio, 4) for name, ratio in self.ratios.items()},
            "peak_share": None if share is None else round(share, 4),
        }


def measure(
    cases: Sequence[Case],
    *,
    repeats: int,
    device: torch.device,
    deploy: bool = False,
    bare: bool = False,
    peak: bool = False,
    progress: Progress = silent,
) -> list[Throughput]:
    """Time the cases in turns, after two turns for warming up; the models stay in memory together.

    `deploy` fuses what only training needs (what is exported always is); `bare` also measures the
    engines "products" and "bare" of each ViT with global attention; `peak` also one large matrix
    product in each precision, and counts operations. See `compare` for the results.
    """
    for case in cases:
        check_engine(case, device)
    activities: dict[Case, Activity] = {}
    flops: dict[Case, float | None] = {}
    with torch.inference_mode(), TemporaryDirectory(prefix="radio-bench-") as folder:
        bench = Workbench(device, Path(folder), deploy)
        # Whatever is wrong with a case shows here, before slow work.
        parameters = {case: bench.parameters(case) for case in cases}
        for index, case in enumerate(cases):
            progress("loading", index, len(cases))
            if bare and case.engine == "eager":
                activities |= bench.bare(case)
            activities[case] = bench.activity(case)
            if peak:
                flops[case] = bench.flops(case)
        if peak:
            for product in dict.fromkeys(matmul_case(case.dtype, device) for case in cases):
                activities[product] = matmul_activity(product, device)
                flops[product] = matmul_flops(product)
        with torch._dynamo.config.patch(cache_size_limit=_SHAPES):
            timings = time_in_turns(activities, repeats, device=device, progress=progress)
    return [
        Throughput(case, timing, flops.get(case), parameters.get(case))
        for case, timing in timings.items()
    ]


def compare(
    rows: Sequence[Throughput], baseline: str = "", earlier: Mapping[Case, float] | None = None
) -> list[Throughput]:
    """What `measure` returned, with its ratios to whatever it can be compared with.

    `baseline` names the case that the others, at the same batch size and precision, are compared
    with; `earlier` has medians in seconds of an earlier run.
    """
    if baseline:
        check_baseline(baseline, [row.case for row in rows])
    medians = {row.case: row.timing.median for row in rows}
    peaks = {row.case.dtype: row for row in rows if row.case.engine == "matmul"}
    compared = []
    for row in rows:
        case = row.case
        others: dict[str, float] = {}
        for engine in _COMPARED.get(case.engine, ()):
            if (same := replace(case, engine=engine)) in medians:
                others[engine] = medians[same]
        wanted = (baseline, "eager", case.batch_size, case.dtype)
        for other, median in medians.items():
            found = (other.name, other.engine, other.batch_size, other.dtype)
            if other != case and found == wanted:
                others[baseline] = median
        if earlier and case in earlier:
            others["earlier"] = earlier[case]
        ratios = {name: medians[case] / median for name, median in others.items()}
        share, peak = None, peaks.get(case.dtype)
        if peak is not None and peak is not row and peak.flops and row.flops:
            share = (row.flops / medians[case]) / (peak.flops / peak.timing.median)
        compared.append(replace(row, ratios=ratios, peak_share=share))
    return compared


def check_baseline(baseline: str, cases: Iterable[Case]) -> None:
    """Raise ValueError, listing the names, unless `baseline` is the name of a case."""
    names = list(dict.fromkeys(case.name for case in cases))
    if baseline not in names:
        raise ValueError(f"baseline {baseline!r} is not measured; measured: {', '.join(names)}")


def read_medians(path: Path) -> dict[Case, float]:
    """The medians, in seconds, in a file that `radio bench throughput --json` wrote."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        names = [column.name for column in fields(Case)]
        return {Case(**{name: row[name] for name in names}): row["ms"] / 1000 for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no result of radio bench throughput: {error!r}") from None
