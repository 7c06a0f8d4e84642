import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("llava", reason="needs llava-torch, see the extra 'llava'")
pytest.importorskip("open_clip", reason="needs the extra 'clip'")
pytest.importorskip("jinja2", reason="needs the extra 'eval'")

from radio_core.cli import main
from radio_core.progress import silent
from radio_eval.llava_toy import ToyLlavaSizes, noise_images, prepare_toy_vqa

SMALL = ["--sizes.train", "12", "--sizes.val", "3", "--training.batch-size", "4"]
SMALL += ["--training.pretrain-steps", "1", "--training.instruct-steps", "2"]


def test_the_export_is_made_once_and_anew_for_other_sizes(tmp_path: Path) -> None:
    data = prepare_toy_vqa(tmp_path, ToyLlavaSizes(train=2, val=1), silent)
    picture = next((data / "images" / "val").iterdir())
    picture.unlink()
    prepare_toy_vqa(tmp_path, ToyLlavaSizes(train=2, val=1), silent)
    assert not picture.exists()
    prepare_toy_vqa(tmp_path, ToyLlavaSizes(train=3, val=1), silent)
    assert picture.exists()


def test_noise_has_the_names_of_the_pictures_and_differs(tmp_path: Path) -> None:
    data = prepare_toy_vqa(tmp_path / "data", ToyLlavaSizes(train=2, val=1), silent)
    place = noise_images(data, tmp_path)
    names = sorted(p.relative_to(place) for p in place.rglob("*.png"))
    assert names == sorted(p.relative_to(data / "images") for p in (data / "images").rglob("*.png"))
    first, second, third = (np.asarray(Image.open(place / name)) for name in names)
    assert (first != second).any()
    assert (second != third).any()


@pytest.mark.slow
def test_the_quickstart_compares_the_towers_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["llava", "quickstart", "--out", str(out), *SMALL]) == 0
    shown = capsys.readouterr().out
    content = json.loads((out / "results.json").read_text())
    assert list(content["results"]) == ["toy", "blind", "toy-clip"]
    for name, result in content["results"].items():
        assert name in shown
        assert result["count"] > 15
        assert 0 <= result["accuracy"] <= 100
        recorded = json.loads((out / name / "llava-toy" / "config.json").read_text())
        assert recorded["mm_hidden_size"] == (96 if name == "toy-clip" else 128)
    report = (out / "report.html").read_text()
    assert "What is the largest object?" in report
    assert report.count("data:image/") == 3

    trained = [out / name / "llava-toy" / "config.json" for name in content["results"]]
    times = [path.stat().st_mtime_ns for path in trained]
    assert main(["llava", "quickstart", "--out", str(out), *SMALL]) == 0
    assert [path.stat().st_mtime_ns for path in trained] == times
    again = json.loads((out / "results.json").read_text())
    assert [r["accuracy"] for r in again["results"].values()] == [
        r["accuracy"] for r in content["results"].values()
    ]
