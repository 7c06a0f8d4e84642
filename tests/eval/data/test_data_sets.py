"""`radio eval prepare`: what is there, what is missing, and where it comes from."""

from pathlib import Path

import pytest

from radio_core.cli import main
from radio_core.data.toyworld.export import export
from radio_eval.data.data_sets import DATA_SETS


def test_without_a_name_all_data_sets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "prepare"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in DATA_SETS)


@pytest.mark.parametrize("name", sorted(DATA_SETS))
def test_an_empty_folder_names_every_needed_part_and_its_source(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "prepare", name, "--data", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    data_set = DATA_SETS[name]
    assert data_set.page in output
    for part in data_set.parts:
        assert (f"missing  {part.what}" in output) == part.needed
        assert part.source in output
    assert main(["eval", "prepare", name]) == 0
    assert data_set.parts[0].source in capsys.readouterr().out


def test_the_toy_world_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(tmp_path, 2, 2)
    assert main(["eval", "prepare", "toy", "--data", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "toy: complete" in output
    assert "missing" not in output


def test_a_part_of_a_data_set_is_usable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("val2017", "annotations"):
        (tmp_path / folder).mkdir()
    (tmp_path / "val2017/1.jpg").touch()
    (tmp_path / "annotations/instances_val2017.json").touch()
    assert main(["eval", "prepare", "coco", "--data", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "partial  validation images: val2017/*.jpg (1 of 5000)" in output
    assert "absent   train images" in output
    assert "usable, but not the whole data set" in output


def test_shards_stand_for_imagenets_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "imagenet1k-train-0000.tar").touch()
    assert main(["eval", "prepare", "imagenet", "--data", str(tmp_path)]) == 1
    (tmp_path / "imagenet1k-validation-00.tar").touch()
    assert main(["eval", "prepare", "imagenet", "--data", str(tmp_path)]) == 0
    assert "found    validation shards" in capsys.readouterr().out


def test_unknown_names_and_folders_are_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "prepare", "cocoa", "--data", str(tmp_path)]) == 2
    assert "unknown data set 'cocoa'; known: imagenet" in capsys.readouterr().err
    assert main(["eval", "prepare", "coco", "--data", str(tmp_path / "nowhere")]) == 1
    assert "no folder" in capsys.readouterr().err
