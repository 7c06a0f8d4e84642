"""The results as one HTML file without any outside resource."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from radio_core.extras import require
from radio_eval.report.charts import HEIGHT, WIDTH, Chart
from radio_eval.report.results import TASKS, Results

Picture = NDArray[np.uint8]

_FEW_COLOURS, _JPEG_QUALITY = 256, 88


@dataclass(frozen=True, kw_only=True)
class PictureRow:
    """Pictures of the same images, side by side.

    Attributes:
        label: what the row shows, e.g. the name of a model.
        pictures: uint8 [H, W, 3] each.
    """

    label: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """A titled group of picture rows.

    Attributes:
        title: heading.
        text: one sentence below it.
        rows: the pictures.
        headings: what each picture of a row is, where the rows have a picture of each kind.
        legend: (name, "#rrggbb") of the colours on the pictures.
    """

    title: str
    text: str
    rows: tuple[PictureRow, ...]
    headings: tuple[str, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()
    kind: ClassVar[str] = "pictures"


def data_uri(picture: Picture) -> str:
    """A picture, uint8 [H, W, 3], as a PNG data URI."""
    return _uri(Image.fromarray(picture), "PNG", optimize=True)


def compact_uri(picture: Picture) -> str:
    """A picture, uint8 [H, W, 3], as a data URI: JPEG for photos, PNG for what has few colours."""
    image = Image.fromarray(picture)
    if image.getcolors(_FEW_COLOURS) is not None:
        return _uri(image, "PNG", optimize=True)
    return _uri(image, "JPEG", quality=_JPEG_QUALITY, optimize=True)


def _uri(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{content}"


def environment() -> Any:
    """Templates of this package; all texts are escaped, and pictures can become data URIs.

    Raises:
        ImportError: jinja2 is missing; the message names the extra.
    """
    jinja2 = require("jinja2", extra="eval")
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("radio_eval.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["data_uri"] = data_uri
    made.filters["compact_uri"] = compact_uri
    return made


def render_report(
    results: Results,
    *,
    title: str,
    charts: Sequence[Chart] = (),
    galleries: Sequence[Gallery] = (),
) -> str:
    """The report as an HTML document; all texts are escaped.

    Args:
        results: the table.
        title: heading of the page.
        charts: training curves.
        galleries: pictures.
    """
    html: str = (
        environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            data=results.to_json(),
            tasks=TASKS,
            title=title,
            charts=charts,
            galleries=galleries,
            width=WIDTH,
            height=HEIGHT,
        )
    )
    return html


def write_report(
    path: Path,
    results: Results,
    *,
    title: str,
    charts: Sequence[Chart] = (),
    galleries: Sequence[Gallery] = (),
) -> None:
    """Write `render_report` to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    html = render_report(results, title=title, charts=charts, galleries=galleries)
    path.write_text(html, encoding="utf-8")
