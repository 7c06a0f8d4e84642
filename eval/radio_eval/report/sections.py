"""What a report can show: sections of tables, figures and pictures with words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from radio_eval.report.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pixels = NDArray[np.uint8]
"""A picture, uint8 [H, W, 3]."""


class Picture(NamedTuple):
    """A picture with a few words below it.

    Attributes:
        pixels: uint8 [H, W, 3]; None for one that can no longer be read.
        caption: below it.
        right: a ✓ or a ✗ before the caption; None for neither.
        name: shown where the pointer rests on it.
    """

    pixels: Pixels | None
    caption: str = ""
    right: bool | None = None
    name: str = ""


class Line(NamedTuple):
    """A line of text, with a ✓ or a ✗ before it and a smaller note behind it."""

    text: str
    right: bool | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """Pictures and words that belong together: an image with its masks, its neighbours, questions.

    Attributes:
        title: heading.
        lead: a picture beside the words.
        lines: the words.
        table: below them.
        pictures: in a row, of which `columns` have room beside each other.
        columns: 0 for as many as there are pictures.
    """

    title: str = ""
    lead: Picture | None = None
    lines: Sequence[Line] = ()
    table: Table | None = None
    pictures: Sequence[Picture] = ()
    columns: int = 0


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page; what it has is shown in the order of the attributes.

    Attributes:
        title: heading.
        text: one or two sentences below it.
        legend: (name, "#rrggbb") of the colours on pictures.
        tables: tables.
        figures: drawn by matplotlib (`figures` has those of this package); they become SVG.
        cards: pictures with words.
        notes: remarks at the end.
    """

    title: str
    text: str = ""
    legend: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    figures: "Sequence[Figure]" = ()
    cards: Sequence[Card] = ()
    notes: Sequence[str] = ()
