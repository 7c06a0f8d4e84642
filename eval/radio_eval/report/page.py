"""A report as one HTML file without any outside resource: the one template of all pages."""

import base64
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from radio_core.data.images import printable
from radio_core.extras import require
from radio_eval.report.figures import inline_svg
from radio_eval.report.sections import Pixels, Section
from radio_eval.report.table import Column, Table

TITLES = {
    "knn": "kNN classification",
    "zero_shot": "Zero-shot classification",
    "linear_seg": "Segmentation with a linear head",
    "sam_miou": "Segment Anything on COCO",
    "vqa": "Visual questions",
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
class Page:
    """What a report says, from top to bottom.

    Attributes:
        title: heading.
        lead: a sentence below it.
        scores: percentages by name, the headline first; None for nothing to measure.
        counts: other numbers by name.
        note: a remark on the scores.
        sections: tables, figures, pictures.
        folded: summary -> what it opens: a table, or JSON types.
    """

    title: str
    lead: str = ""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    sections: Sequence[Section] = ()
    folded: Mapping[str, Any] = field(default_factory=dict)

    def html(self) -> str:
        """The page as an HTML document; all texts are escaped.

        Raises:
            ImportError: jinja2 or matplotlib is missing; the message names the extra.
        """
        text: str = _environment().get_template("page.html.j2").render(page=self)
        return text

    def write(self, path: Path) -> None:
        """Write the page into a file, whole or not at all; its folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(self.html(), encoding="utf-8", errors="backslashreplace")
        os.replace(partial, path)


def check_report_path(path: Path | None) -> None:
    """Find out before a long run that its report could not be written, and make its folder.

    Args:
        path: of the HTML file; None for no report.

    Raises:
        ValueError: the path is a folder, or lies in none that can be made.
        ImportError: jinja2 or matplotlib is missing; the message names the extra.
    """
    if path is None:
        return
    require_pages()
    if path.is_dir():
        raise ValueError(f"--report {printable(path)} is a folder; name an HTML file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"--report {printable(path)}: cannot make its folder: {error.strerror}"
        ) from error


def require_pages() -> None:
    """Raise ImportError, naming the extra, unless pages can be made."""
    for library in ("jinja2", "matplotlib"):
        require(library, extra="eval")


def evaluation_page(
    result: Mapping[str, Any], sections: Sequence[Section], title: str = ""
) -> Page:
    """The report on one task and one model.

    Args:
        result: a `TaskResult` as JSON types, and whatever else shall be said.
        sections: what the task shows.
        title: of the task.
    """
    scores, counts = _split(result["metrics"])
    apart = ("task", "model", "value", "metrics", "parameters", "class_iou", "skipped", "unscored")
    record = {name: value for name, value in result.items() if name not in apart}
    skipped = {
        what: {**account, "each": dict(list(account.get("each", {}).items())[:_LISTED])}
        for what, account in result["skipped"].items()
    }
    return Page(
        title=title or TITLES.get(result["task"], result["task"]),
        lead=result["model"],
        scores=scores,
        counts=counts,
        sections=sections,
        note=f"Not scored: {result['unscored']}" if result.get("unscored") else "",
        folded=_folded(result["parameters"], {**record, "skipped": skipped}),
    )


def _split(metrics: Mapping[str, Any]) -> tuple[dict[str, float | None], dict[str, float]]:
    """Percentages, and the other numbers."""
    counts = {
        name: float(value)
        for name, value in metrics.items()
        if value is not None and (name in _COUNTS or isinstance(value, int))
    }
    scores = {n: v for n, v in metrics.items() if n not in counts and n not in _COUNTS}
    return scores, counts


def _folded(parameters: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        (name.replace("_", " "), "–" if value is None else str(value))
        for name, value in parameters.items()
    ]
    columns = (Column("parameter"), Column("value", numeric=False))
    return {
        "Protocol: every parameter": Table(columns=columns, rows=rows),
        "Data, versions, times, and what was left out": record,
    }


def _environment() -> Any:
    jinja2, markupsafe = require("jinja2", extra="eval"), require("markupsafe", extra="eval")

    def breakable(text: str) -> Any:
        """Let lines end within long names of models and files."""
        pieces = re.split(r"(?<=[:/_.-])(?=.)", text) if len(text) > 20 else [text]
        return markupsafe.Markup("<wbr>").join(pieces)

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("radio_eval.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        breakable=breakable,
        picture_uri=picture_uri,
        svg=lambda figure: markupsafe.Markup(inline_svg(figure)),
        words=lambda name: _NAMES.get(name, name.replace("_", " ")),
    )
    made.tests["table"] = lambda value: isinstance(value, Table)
    return made


def picture_uri(pixels: Pixels) -> str:
    """A picture as a data URI: JPEG for photos, PNG for what has few colours or is small."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    few = image.getcolors(256) is not None or max(image.size) <= 112
    kind, options = ("png", {}) if few else ("jpeg", {"quality": 88})
    image.save(buffer, kind, optimize=True, **options)
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{kind};base64,{content}"
