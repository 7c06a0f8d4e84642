"""Speed beside the paper's: its Tables 7 and 8, in the terminal, as Markdown and as a plot."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from radio_core.bench.cases import Case, Dtype, Engine, parse_cases
from radio_core.bench.sam import RANDOM_SAM
from radio_core.bench.throughput import Throughput
from radio_core.bench.timing import SPREAD
from radio_core.open import RANDOM
from radio_eval.report.figures import Point, speed_figure, write_figure
from radio_eval.report.table import Column, Table, escaped


@dataclass(frozen=True, kw_only=True)
class PaperSpeed:
    """One row of a table: the paper's label and numbers (quality in percent), and what is
    measured for it, as `parse_cases` takes it, without the resolution."""

    label: str
    model: str
    images_per_second: float | None = None
    quality: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SpeedTable:
    """A table of the paper: how it measured, at which side in pixels and batch size; the speeds are
    divided by that of the row `reference`."""

    title: str
    setting: str
    reference: str
    resolution: int
    batch_size: int
    rows: Sequence[PaperSpeed]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Its columns of quality."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.quality))

    def case(self, row: PaperSpeed, batch_size: int, engine: Engine, dtype: Dtype) -> Case:
        """What is measured for a row."""
        model, plus, windows = row.model.partition("+")
        text = f"{model}@{self.resolution}{plus}{windows}"
        (case,) = parse_cases([text], (), [batch_size], engines=[engine], dtypes=[dtype])
        return case


def _row(
    label: str, model: str, speed: float | None, zero_shot: float | None, knn: float, ade20k: float
) -> PaperSpeed:
    quality = {"zero-shot": zero_shot, "kNN": knn, "ADE20K mIoU": ade20k}
    return PaperSpeed(
        label=label,
        model=RANDOM + model,
        images_per_second=speed,
        quality={name: value for name, value in quality.items() if value is not None},
    )


# Figure 3: "we study E-RADIO at 224px resolution, with a window size of 7".
_TABLE7 = SpeedTable(
    title="Table 7: backbones",
    setting="A100, TensorRT 9.0.1, mixed FP16/FP32, batch 128, 224 x 224 pixels",
    reference="E-RADIO-L",
    resolution=224,
    batch_size=128,
    rows=(
        _row("DINOv2 G/14", "timm:vit_giant_patch14_dinov2", 313, None, 83.41, 47.53),
        _row("OpenCLIP H/14", "timm:vit_huge_patch14_clip_224", 556, 77.19, 81.10, 40.04),
        _row("EfficientNetV2-S", "timm:tf_efficientnetv2_s", 9017, 65.37, 70.72, 27.75),
        _row("ResNetv2-101", "timm:resnetv2_101", 7283, 69.58, 75.32, 29.61),
        _row("RegNetY-064", "timm:regnety_064", 6573, 69.84, 74.59, 28.9),
        _row("EfficientViT-L1", "timm:efficientvit_l1", 6048, 71.73, 79.90, 33.12),
        _row("ConvNext-B", "timm:convnext_base", 1805, 75.43, 81.73, 38.95),
        _row("NFNet-F3", "timm:dm_nfnet_f3", 1777, 76.93, 80.50, 38.31),
        _row("SwinV2-S", "timm:swinv2_small_window8_256", 1497, 74.70, 81.12, 35.57),
        _row("MaxViT-B", "timm:maxvit_base_tf_224", 1486, 77.49, 79.34, 38.46),
        _row("PoolformerV2-M36", "timm:poolformerv2_m36", 1194, 74.46, 80.49, 35.05),
        _row("MViTV2-B", "timm:mvitv2_base", 975, 75.92, 81.39, 41.39),
        _row("E-RADIO-B", "eradio-b+w7", 6422, 75.19, 82.21, 44.03),
        _row("E-RADIO-B w/o upsample", "eradio-b-coarse+w7", 7040, 75.45, 82.05, 41.26),
        _row("E-RADIO-L", "eradio+w7", 3472, 77.87, 83.73, 45.5),
    ),
)

_TABLE8 = SpeedTable(
    title="Table 8: image encoders of Segment Anything",
    setting="A100, TensorRT, batch 16, 1024 x 1024 pixels",
    reference="SAM ViT-H",
    resolution=1024,
    batch_size=16,
    rows=tuple(
        PaperSpeed(
            label=label,
            model=RANDOM + model,
            images_per_second=speed,
            quality={} if miou is None else {"COCO mIoU": miou},
        )
        for label, model, speed, miou in (
            ("SAM ViT-B", "sam-b", 50.94, 75.78),
            ("SAM ViT-L", "sam-l", 20.62, 77.02),
            ("SAM ViT-H", "sam-h", 11.83, 77.18),
            ("E-RADIO-L", "sam-with-e-radio-l", 121.74, 76.31),
            ("RADIO ViT-H/16, windows of 8", "sam-with-radio-h+w8", 29.09, 76.09),
            ("RADIO ViT-H/16, windows of 16", "sam-with-radio-h+w16", 27.91, 76.23),
            ("RADIO ViT-H/16, global", "sam-with-radio-h", None, None),
        )
    ),
)

SPEED_TABLES: dict[str, SpeedTable] = {"7": _TABLE7, "8": _TABLE8}
"""Number -> table."""

_WITH_RADIO = "sam-with-"
SAM_ENCODERS = tuple(
    row.model.removeprefix(RANDOM).removeprefix(_WITH_RADIO) for row in _TABLE8.rows
)
"""The rows of Table 8 as `sam_table` takes them."""


def sam_table(encoders: Sequence[str], resolution: int) -> SpeedTable:
    """Table 8 with other rows, or at another resolution.

    Encoders are "sam-b|l|h", "radio-b|l|h" or "e-radio-l"; a RADIO ViT with "+w8" behind it
    attends in windows of 8 patches.
    """
    by_model = {row.model: row for row in SPEED_TABLES["8"].rows}
    rows = []
    for name in dict.fromkeys(encoders):
        kind, plus, window = name.partition("+")
        sources = (RANDOM + kind, RANDOM + _WITH_RADIO + kind)
        source = next((source for source in sources if source in RANDOM_SAM), None)
        if source is None:
            known = (known.removeprefix(_WITH_RADIO) for known in RANDOM_SAM.values())
            raise ValueError(
                f"unknown encoder {name!r}; known: {', '.join(known)}, and RADIO ViTs with +wWINDOW"
            )
        model = source + plus + window
        rows.append(by_model.get(model) or PaperSpeed(label=name, model=model))
    return replace(SPEED_TABLES["8"], resolution=resolution, rows=tuple(rows))


def throughput_table(rows: Sequence[Throughput]) -> Table:
    """One row a case, and a column for each baseline."""
    names = list(dict.fromkeys(name for row in rows for name in row.ratios))
    peak = any(row.peak_share is not None for row in rows)
    headings = ["model", "batch", "ms", "images/s", *(f"time / {name}" for name in names)]
    cells = []
    for row in rows:
        how = f" ({row.case.how})" if row.case.how else ""
        product = row.case.engine == "matmul"
        ratios = (f"{row.ratios[name]:.3f}" if name in row.ratios else "" for name in names)
        share = "" if row.peak_share is None else f"{row.peak_share:.0%}"
        cells.append(
            [
                row.case.name + how,
                "" if product else str(row.case.batch_size),
                str(row.timing),
                "" if product else f"{row.images_per_second:.2f}",
                *ratios,
                *([share] if peak else []),
            ]
        )
    return _table([*headings, *(["of matmul peak"] if peak else [])], cells)


Quality = dict[str, dict[str, float]]
"""Model -> metric -> number."""
Named = Sequence[tuple[str, Throughput]]
"""Measurements under the names that people know; a model that was run in several ways is there
once each."""


def paper_table(table: SpeedTable, named: Named) -> Table:
    """The paper's table, with a measured column beside the paper's for each engine.

    Speeds are divided by those of the reference; nothing is divided where it has none.
    """
    measured: dict[str, list[Throughput]] = {row.label: [] for row in table.rows}
    for label, found in named:
        measured[label].append(found)
    first = measured[table.rows[0].label]
    headings = ["model", "params (M)", *table.metrics, "paper: images/s", f"/ {table.reference}"]
    for found in first:
        how = f"{found.case.engine}, {found.case.dtype}"
        headings += [f"here: images/s ({how})", f"/ {table.reference}"]
    paper = {row.label: row.images_per_second for row in table.rows}.get(table.reference)
    references = measured.get(table.reference, [None] * len(first))
    rows = []
    for row in table.rows:
        parameters = measured[row.label][0].parameters
        cells = [row.label, "" if parameters is None else f"{parameters / 1e6:.0f}"]
        cells += [_number(row.quality.get(metric)) for metric in table.metrics]
        cells += [_number(row.images_per_second), _ratio(row.images_per_second, paper)]
        for ours, other in zip(measured[row.label], references, strict=True):
            speed = ours.images_per_second
            cells.append(f"{speed:.3g} ±{100 * ours.timing.spread:.0f}%")
            cells.append(_ratio(speed, None if other is None else other.images_per_second))
        rows.append(cells)
    return _table(headings, rows)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    return Table(columns=[Column(heading) for heading in headings], rows=rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _ratio(value: float | None, reference: float | None) -> str:
    return "" if value is None or reference is None else f"{value / reference:.2f}"


def markdown_page(title: str, table: Table, remarks: Sequence[str]) -> str:
    """A page with the table, and a paragraph for each remark."""
    lines = [f"# {escaped(title)}", "", table.markdown()]
    for remark in remarks:
        lines += ["", escaped(remark)]
    return "\n".join(lines) + "\n"


def described(date: str, machine: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """What the numbers depend on, a sentence or more each, for people."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    system = machine["system"].partition("-")[0]
    return [
        f"Measured on {date}: {machine['device']} ({machine['cpu']}, "
        f"{machine['threads']} threads), torch {machine['torch']}"
        f"{', ' + packages if packages else ''}, {system}; {settings['repeats']} repeats, "
        f"{SPREAD}."
    ]


def write_quality_plot(path: Path, title: str, named: Named, quality: Quality) -> None:
    """Draw each metric over the speed of the models that have it, as a .svg or .png file."""
    panels: dict[str, list[Point]] = {}
    for name, row in named:
        label = f"{name} ({row.case.how})" if row.case.how else name
        for metric, value in quality.get(name, {}).items():
            panels.setdefault(metric, []).append(Point(label, row.images_per_second, value))
    if not panels:
        known = ", ".join(quality)
        raise ValueError(f"none of the measured models has quality numbers; there are: {known}")
    write_figure(path, speed_figure(title, "images a second", panels))


def read_quality(path: Path) -> Quality:
    """Quality numbers: the JSON of `radio eval table1`, or a .csv with a column "model" and one
    for each metric, where empty cells are unknown."""
    text = path.read_text(encoding="utf-8-sig")
    found: Quality = {}
    try:
        if path.suffix.lower() == ".csv":
            lines = csv.DictReader(text.splitlines(), strict=True)
            cells = [(line.pop("model"), line) for line in lines]
        else:
            cells = [(name, row["scores"]) for name, row in json.loads(text)["rows"].items()]
        for name, scores in cells:
            known = {
                metric: float(cell) for metric, cell in scores.items() if cell not in ("", None)
            }
            if not all(map(math.isfinite, known.values())):
                raise ValueError(f"{name} has numbers that are not finite")
            found[name] = known
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} has no quality numbers: give the .json of `radio eval table1`, or a .csv with "
            f"the columns model,METRIC,...: {error}"
        ) from None
    return found
