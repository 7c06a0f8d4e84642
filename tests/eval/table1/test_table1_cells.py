"""Finished cells on disk."""

from pathlib import Path

import pytest

from radio_eval.table1.cells import Cell, CellStore, slug

IDENTITY = {"weights": "abc", "sizes": (1, 2)}


@pytest.fixture
def store(tmp_path: Path) -> CellStore:
    store = CellStore(tmp_path / "cells")
    cell = Cell(value=12.5, note="x", result={"metrics": {"top1": 12.5}}, identity=IDENTITY)
    store.write("timm:a/b", "knn", cell)
    return store


def test_a_finished_cell_is_found_again(store: CellStore) -> None:
    found = store.read("timm:a/b", "knn", IDENTITY)
    assert found is not None
    assert (found.value, found.note) == (12.5, "x")
    assert found.result["metrics"] == {"top1": 12.5}


def test_other_weights_models_and_columns_have_none(store: CellStore) -> None:
    assert store.read("timm:a/b", "knn", IDENTITY | {"weights": "def"}) is None
    assert store.read("timm:a-b", "knn", IDENTITY) is None
    assert store.read("timm:a/b", "coco", IDENTITY) is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"identity": {}}', "null"])
def test_a_damaged_cell_is_done_again(store: CellStore, damage: str) -> None:
    store.path("timm:a/b", "knn").write_text(damage)
    assert store.read("timm:a/b", "knn", IDENTITY) is None


def test_slugs_are_file_names_and_tell_names_apart() -> None:
    names = ["open_clip:ViT-L-14/openai", "open_clip:ViT-L-14-openai", "../../x", "a" * 300]
    slugs = [slug(name) for name in names]
    assert len(set(slugs)) == len(names)
    assert all("/" not in text and len(text) < 80 and text[0] != "." for text in slugs)
