"""What a report of one evaluation can show; `sections.html.j2` has a macro for each kind."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from radio_eval.report.html import Gallery, Picture


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A named percentage.

    Attributes:
        name: what it belongs to.
        value: in [0, 100]; None for nothing to measure.
        note: a few words behind the name.
        colour: "#rrggbb" of a patch beside the name; "" for none.
    """

    name: str
    value: float | None
    note: str = ""
    colour: str = ""


@dataclass(frozen=True, kw_only=True)
class Bars:
    """A titled group of percentages, drawn as bars."""

    title: str
    text: str
    bars: tuple[Bar, ...]
    kind: ClassVar[str] = "bars"


@dataclass(frozen=True, kw_only=True)
class Share:
    """A class with the share of a vote that it got, in [0, 1]."""

    name: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A train image near a query.

    Attributes:
        name: of the image.
        class_name: of its class.
        similarity: cosine with the query.
        right: it has the query's class.
        picture: uint8 [H, W, 3]; None if it can no longer be read.
    """

    name: str
    class_name: str
    similarity: float
    right: bool
    picture: Picture | None


@dataclass(frozen=True, kw_only=True)
class Query:
    """A validation image with what was made of it.

    Attributes:
        name: of the image.
        truth: name of its class.
        predicted: name of the class that it was given.
        right: both are the same class.
        picture: uint8 [H, W, 3]; None if it can no longer be read.
        vote: the classes with most of the vote, the first ones.
        neighbours: the most similar first.
    """

    name: str
    truth: str
    predicted: str
    right: bool
    picture: Picture | None
    vote: tuple[Share, ...]
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True, kw_only=True)
class NeighbourSheet:
    """Queries with their nearest train images."""

    title: str
    text: str
    queries: tuple[Query, ...]
    kind: ClassVar[str] = "neighbours"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Images of one class that were taken for another.

    Attributes:
        truth: name of their class.
        predicted: name of the other.
        count: of these images.
        total: images of their class.
        name: of one of them.
        picture: of the same, uint8 [H, W, 3]; None if it can no longer be read.
    """

    truth: str
    predicted: str
    count: int
    total: int
    name: str
    picture: Picture | None


@dataclass(frozen=True, kw_only=True)
class ConfusedPairs:
    """The pairs of classes that are confused most."""

    title: str
    text: str
    pairs: tuple[Pair, ...]
    kind: ClassVar[str] = "pairs"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a confusion matrix.

    Attributes:
        truth: row, the index of a class.
        predicted: column, the index of a class.
        count: images.
        share: of the row's images, in (0, 1].
    """

    truth: int
    predicted: int
    count: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """A confusion matrix.

    Attributes:
        title: heading.
        text: one sentence below it.
        class_names: of rows (truth) and columns (prediction).
        totals: images of each class.
        cells: those that are drawn.
        side: of a cell in pixels.
    """

    title: str
    text: str
    class_names: tuple[str, ...]
    totals: tuple[int, ...]
    cells: tuple[Cell, ...]
    side: int
    kind: ClassVar[str] = "heatmap"


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What a model said: None for no answer; `right` says whether that counts as right."""

    text: str | None
    right: bool


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question to one or more models.

    Attributes:
        text: the question.
        truth: the right answer.
        answers: what each model said, in the order of their names.
    """

    text: str
    truth: str
    answers: tuple[Answered, ...]


@dataclass(frozen=True, kw_only=True)
class AskedScene:
    """A picture, uint8 [H, W, 3], with questions on it; None for questions without a picture."""

    picture: Picture | None
    questions: tuple[Asked, ...]


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Pictures with questions on them, and the answers of models."""

    title: str
    text: str
    names: tuple[str, ...]
    scenes: tuple[AskedScene, ...]
    kind: ClassVar[str] = "questions"


Section = Gallery | Bars | NeighbourSheet | ConfusedPairs | Heatmap | Questions
Show = Callable[[Iterable[Section]], None]
"""Takes sections into a report."""
