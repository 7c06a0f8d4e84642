"""Finished cells on disk."""

from pathlib import Path

import pytest

from radio_eval.tables.filling import Cell, Filling, noted, slug

IDENTITY = {"weights": "abc", "sizes": (1, 2)}


def made(filling: Filling, row: str, column: str, identity: dict[str, object]) -> list[Cell]:
    """The cell, and what was made for it."""
    new: list[Cell] = []

    def make() -> Cell:
        new.append(Cell(value=12.5, note="x", result={"metrics": {"top1": 12.5}}))
        return new[-1]

    cell = filling.cell(row, column, identity, make)
    assert (cell.value, cell.note, cell.result["metrics"]) == (12.5, "x", {"top1": 12.5})
    assert cell.identity["weights"] == identity["weights"]
    return new


def test_a_finished_cell_is_found_again(tmp_path: Path) -> None:
    filling = Filling(tmp_path / "cells")
    assert made(filling, "timm:a/b", "knn", IDENTITY)
    assert not made(filling, "timm:a/b", "knn", IDENTITY)
    assert not made(Filling(tmp_path / "cells"), "timm:a/b", "knn", IDENTITY)
    assert made(filling, "timm:a-b", "knn", IDENTITY)
    assert made(filling, "timm:a/b", "coco", IDENTITY)
    assert made(filling, "timm:a/b", "knn", IDENTITY | {"weights": "def"})
    filling.forget("timm:a-b", "knn")
    assert made(filling, "timm:a-b", "knn", IDENTITY)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"identity": {}}', "null"])
def test_a_damaged_cell_is_done_again(tmp_path: Path, damage: str) -> None:
    filling = Filling(tmp_path)
    assert made(filling, "timm:a/b", "knn", IDENTITY)
    (file,) = tmp_path.iterdir()
    file.write_text(damage)
    assert made(filling, "timm:a/b", "knn", IDENTITY)


def test_a_failed_cell_is_not_kept(tmp_path: Path) -> None:
    filling = Filling(tmp_path)
    assert filling.cell("a", "knn", IDENTITY, lambda: Cell(failed=True)).failed
    assert made(filling, "a", "knn", IDENTITY)


def test_what_goes_wrong_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with noted() as wrong:
        raise ValueError("no\n  data")
    with noted() as defect:
        _ = 1 / 0
    assert (wrong, defect) == (["no data"], ["ZeroDivisionError: division by zero"])
    monkeypatch.setenv("RADIO_DEBUG", "1")
    with pytest.raises(ValueError, match="x"), noted():
        raise ValueError("x")


def test_slugs_are_file_names_and_tell_names_apart() -> None:
    names = ["open_clip:ViT-L-14/openai", "open_clip:ViT-L-14-openai", "../../x", "a" * 300]
    slugs = [slug(name) for name in names]
    assert len(set(slugs)) == len(names)
    assert all("/" not in text and len(text) < 80 and text[0] != "." for text in slugs)
