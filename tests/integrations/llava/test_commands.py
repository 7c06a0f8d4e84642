"""The commands of `radio llava` but chat, and what importing the package needs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import radio_llava
from radio_core.cli import main


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
    assert main(["llava", "tokens", str(folder), "--json", str(tmp_path / "out.json")]) == 0
    shown = capsys.readouterr()
    assert "648.0 tokens an image on average (567 to 729)" in shown.out
    assert "broken.jpg: not an image" in shown.err
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["count"], result["mean"]) == (2, 648)
    assert list(result["skipped"]) == [str(folder / "broken.jpg")]
    assert main(["llava", "tokens", str(folder), "--resolution", "64", "--patch", "8"]) == 0
    assert "(48 to 64)" in capsys.readouterr().out


def test_tokens_of_the_photos(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["llava", "tokens", str(shared / "data" / "coco")]) == 0
    assert "528.2 tokens" in capsys.readouterr().out


def test_a_folder_without_images_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["llava", "tokens", str(tmp_path)]) == 1
    assert "no images under" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["convert", "merge"])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_destination_with_something_in_it_is_refused(
    command: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    destination = tmp_path / "there" / ("file" if kind == "file" else ".")
    argv = ["llava", command, str(tmp_path / "llava"), str(destination)]
    assert main([*argv, *(["--base", "llama"] if command == "merge" else [])]) == 2
    assert "is not empty: name a new directory" in " ".join(capsys.readouterr().err.split())


def test_a_source_that_is_no_llava_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'llava'")
    assert main(["llava", "convert", str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 1
    assert "no config.json in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_public_name_leads_somewhere() -> None:
    assert set(radio_llava.__all__) <= set(dir(radio_llava))
    assert all(callable(getattr(radio_llava, name)) for name in radio_llava.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = radio_llava.nothing


def test_the_import_is_light_and_needs_no_llava() -> None:
    code = """
import sys
for name in ("llava", "transformers", "peft"):
    sys.modules[name] = None  # as if it were not installed
import radio_llava
assert "torch" not in sys.modules
for name in radio_llava.__all__:
    getattr(radio_llava, name)
import radio_llava.cli.llava, radio_llava.cli.chat, radio_llava.data, radio_llava.train
try:
    radio_llava.register()
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "pip install 'radio-toolkit[llava]'" in done.stdout
