import json
from pathlib import Path

import pytest
from PIL import Image

from radio_core.cli import UsageError
from radio_llava.cli.llava import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    Image.new("RGB", (640, 480)).save(images / "wide.png")
    Image.new("L", (100, 100)).save(images / "deep" / "square.png")
    (images / "broken.jpg").write_bytes(b"no image")
    return images


def test_tokens_prints_the_average_over_a_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokens", str(folder), "--json", str(tmp_path / "out.json")]) == 0
    shown = capsys.readouterr()
    assert "648.0 tokens an image on average (567 to 729)" in shown.out
    assert "broken.jpg: not an image" in shown.err
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["count"], result["mean"]) == (2, 648)
    assert list(result["skipped"]) == [str(folder / "broken.jpg")]


def test_tokens_of_the_photos(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokens", str(shared / "data" / "coco")]) == 0
    assert "528.2 tokens" in capsys.readouterr().out


def test_resolution_and_patch_count(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokens", str(folder), "--resolution", "64", "--patch", "8"]) == 0
    assert "(48 to 64)" in capsys.readouterr().out


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images under"):
        main(["tokens", str(tmp_path)])


def test_an_unknown_action_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"known: chat, .*tokens, train"):
        main(["trian"])
    assert main(["--help"]) == 0
    assert "  tokens      Count the image tokens" in capsys.readouterr().out
    assert main([]) == 2
