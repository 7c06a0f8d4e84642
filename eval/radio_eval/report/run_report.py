"""One evaluation of one model as one HTML file without any outside resource."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radio_core.cli import UsageError
from radio_core.data.images import printable
from radio_eval.report.html import environment
from radio_eval.report.results import installed_versions
from radio_eval.report.sections import Bar, Bars, Section

TITLES = {
    "knn": "kNN classification",
    "zero_shot": "Zero-shot classification",
    "linear_seg": "Segmentation with a linear head",
    "sam_miou": "Segment Anything on COCO",
}
_NAMES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "miou": "mIoU",
    "all": "mean IoU",
    "f1": "F1",
}
_COUNTS = ("train_images", "val_images", "count", "image_size", "crop", "stride", "image_tokens")
"""Metrics that are no percentages."""
_LISTED = 50
"""Left-out files that are named; the result file names all."""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What a report says.

    Attributes:
        title: what was measured.
        model: name of the model.
        scores: percentages by name, the headline first; None for one without anything to measure.
        counts: other numbers.
        note: why there is no score; "" if there is one.
        parameters: everything that decides the result, as JSON types.
        record: all else that is known of the run, as JSON types.
        sections: the pictures.
    """

    title: str
    model: str
    scores: Mapping[str, float | None]
    counts: Mapping[str, float]
    parameters: Mapping[str, Any]
    record: Mapping[str, Any]
    sections: Sequence[Section] = ()
    note: str = ""


def evaluation_report(result: Mapping[str, Any], sections: Sequence[Section]) -> RunReport:
    """The report on a result of `EvalOptions.run`."""
    scores, counts = _split(result["metrics"])
    apart = ("task", "model", "value", "metrics", "parameters", "class_iou", "skipped")
    return RunReport(
        title=TITLES.get(result["task"], result["task"]),
        model=result["model"],
        scores=scores,
        counts=counts,
        parameters=result["parameters"],
        record={
            **{name: value for name, value in result.items() if name not in apart},
            "skipped": {what: _shortened(each) for what, each in result["skipped"].items()},
        },
        sections=sections,
    )


def vqa_report(result: Mapping[str, Any], sections: Sequence[Section]) -> RunReport:
    """The report on a result of `vqa.run.evaluate_vqa`."""
    apart = ("task", "model", "settings", "skipped", "unscored")
    found = {name: value for name, value in result.items() if name not in apart}
    groups = {name: value for name, value in found.items() if isinstance(value, Mapping)}
    scores, counts = _split({name: v for name, v in found.items() if name not in groups})
    skipped = result["skipped"]
    shortened = {**skipped, "questions": skipped["questions"][:_LISTED]}
    return RunReport(
        title=f"Visual questions: {result['task']}",
        model=result["model"],
        scores=scores,
        counts=counts,
        note=result.get("unscored", ""),
        parameters=result["settings"],
        record={**groups, "skipped": shortened},
        sections=[*(_group_bars(name, group) for name, group in groups.items()), *sections],
    )


def render_run_report(report: RunReport) -> str:
    """The report as an HTML document; all texts are escaped."""
    page = environment().get_template("run.html.j2")
    html: str = page.render(
        report=report, names=_NAMES, record={**report.record, "versions": installed_versions()}
    )
    return html


def write_run_report(path: Path, report: RunReport) -> None:
    """Write `render_run_report` to a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(render_run_report(report), encoding="utf-8", errors="backslashreplace")
    os.replace(partial, path)


def check_report_path(path: Path | None) -> None:
    """Find out before a long run that its report could not be written, and make its folder.

    Args:
        path: of the HTML file; None for no report.

    Raises:
        UsageError: the path is a folder, or lies in none that can be made.
        ImportError: jinja2 is missing; the message names the extra.
    """
    if path is None:
        return
    environment()
    if path.is_dir():
        raise UsageError(f"--report {printable(path)} is a folder; name an HTML file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--report {printable(path)}: cannot make its folder: {error.strerror}"
        ) from error


def _split(metrics: Mapping[str, Any]) -> tuple[dict[str, float | None], dict[str, float]]:
    """Percentages, and the other numbers."""
    counts = {
        name: float(value)
        for name, value in metrics.items()
        if value is not None and (name in _COUNTS or isinstance(value, int))
    }
    scores = {n: v for n, v in metrics.items() if n not in counts and n not in _COUNTS}
    return scores, counts


def _group_bars(title: str, group: Mapping[str, Any]) -> Bars:
    """The percentages of the parts of a task, such as POPE's splits."""
    bars = []
    for part, found in group.items():
        scores, _ = _split(found) if isinstance(found, Mapping) else ({"": found}, {})
        names = {name: _NAMES.get(name, name.replace("_", " ")) for name in scores}
        bars += [Bar(name=f"{part} {names[n]}".strip(), value=v) for n, v in scores.items()]
    return Bars(title=title.replace("_", " ").capitalize(), text="In percent.", bars=tuple(bars))


def _shortened(account: Mapping[str, Any]) -> dict[str, Any]:
    """An account of what was left out, with the first of it named."""
    each = account.get("each", {})
    return {**account, "each": dict(list(each.items())[:_LISTED])}
