"""Pages that are checked, and a small world to make them of."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from radio_core.data.toyworld.export import export
from radio_eval.cli import evaluate
from radio_eval.report.page import Page
from radio_eval.report.sections import Section
from radio_eval.report.table import Column, Table

HOSTILE = "<img src=x onerror=alert(1)>&\"'"
VOID = {"meta", "img", "wbr"}


class Checker(HTMLParser):
    """Fails on tags that are not closed in order; collects what is there."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(page: str) -> Checker:
    """A page that is well formed and needs nothing from outside."""
    checker = Checker(page)
    assert not {tag for tag, _ in checker.seen} & {"script", "link", "iframe", "object"}
    for _, attributes in checker.seen:
        assert (attributes.get("href") or "#").startswith("#")
        assert (attributes.get("src") or "data:image/").startswith("data:image/")
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in page.replace("url(#", "")
    assert "@import" not in page
    return checker


@pytest.fixture
def check() -> Callable[[str], Checker]:
    """Reads a page, and fails unless it is well formed and whole in itself."""
    return checked


@pytest.fixture
def hostile() -> str:
    """A text that is dangerous in HTML."""
    return HOSTILE


def made(*sections: Section, **changes: Any) -> Page:
    values: dict[str, Any] = {
        "title": "Test",
        "lead": HOSTILE,
        "scores": {"top1": 12.345, "empty": None},
        "counts": {"val_images": 7.0},
        "sections": sections,
        "folded": {HOSTILE: Table(columns=[Column(HOSTILE)], rows=[[HOSTILE]]), "data": [HOSTILE]},
    }
    return Page(**{**values, **changes})


@pytest.fixture
def page() -> Callable[..., Page]:
    """Makes a page of sections, with hostile texts all around them."""
    return made


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy")
    export(out, 30, 12, parts=("classification", "segmentation", "coco", "vqa"))
    return out


def run_and_check(
    task: str, data: Path, out: Path, *options: str, model: str = "random:tiny"
) -> Checker:
    """The report of a run."""
    file = out / "new" / f"{task}.html"
    command = [task, "--model", model, "--data", str(data), "--device", "cpu"]
    assert evaluate.evaluate([*command, "--report", str(file), *options]) == 0
    assert file.stat().st_size < 2_000_000
    return checked(file.read_text(encoding="utf-8"))


@pytest.fixture
def run() -> Callable[..., Checker]:
    """Runs a task on a folder of data, and reads its report."""
    return run_and_check
