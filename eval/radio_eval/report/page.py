"""A report as one HTML file without any outside resource: the one template of all pages."""

import base64
import io
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
from radio_eval.results import write_whole

_NAMES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "miou": "mIoU",
    "all": "mean IoU",
    "f1": "F1",
}
_NUMBER = re.compile(
    r"(.+\.)?(count|missing|unanswered|TP|FP|TN|FN|(train_|val_)?images|image_size|image_tokens|crop"
    r"|stride|largest_rise|(mse|cosine)_\d+)"
)
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
        """The page as an HTML document; all texts are escaped."""
        text: str = _environment().get_template("page.html.j2").render(page=self)
        return text

    def write(self, path: Path) -> None:
        """Write the page into a file, whole or not at all; its folder is made."""
        write_whole(path, self.html().encode("utf-8", "backslashreplace"))


def check_report_path(path: Path | None) -> None:
    """Find out before a long run that its report could not be written, and make its folder."""
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


def evaluation_page(result: Mapping[str, Any], sections: Sequence[Section], title: str) -> Page:
    """The report on one task and one model."""
    metrics = result["metrics"]
    apart = ("task", "model", "value", "metrics", "parameters", "class_iou", "skipped", "unscored")
    skipped = {
        what: {**account, "each": dict(list(account.get("each", {}).items())[:_LISTED])}
        for what, account in result["skipped"].items()
    }
    parameters = [
        (name.replace("_", " "), "–" if value is None else str(value))
        for name, value in result["parameters"].items()
    ]
    columns = (Column("parameter"), Column("value", numeric=False))
    record = {name: value for name, value in result.items() if name not in apart}
    return Page(
        title=title or result["task"],
        lead=result["model"],
        scores={name: v for name, v in metrics.items() if not _NUMBER.fullmatch(name)},
        counts={n: v for n, v in metrics.items() if v is not None and _NUMBER.fullmatch(n)},
        sections=sections,
        note=f"Not scored: {result['unscored']}" if result.get("unscored") else "",
        folded={
            "Protocol: every parameter": Table(columns=columns, rows=parameters),
            "Data, versions, times, and what was left out": {**record, "skipped": skipped},
        },
    )


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
