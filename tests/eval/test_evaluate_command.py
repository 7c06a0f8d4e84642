"""The command `radio eval`."""

import json
from pathlib import Path

import pytest

from radio_core.commands import UsageError
from radio_core.data.toyworld.export import export
from radio_eval.commands.evaluate import main


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy")
    export(out, 12, 6, parts=("classification", "segmentation", "coco"))
    return out


def test_knn_writes_its_protocol(toy: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "knn.json"
    options = ["--model", "random:tiny", "--data", str(toy / "classification")]
    assert main(["knn", *options, "--image-size", "32", "--k", "3", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert result["task"] == "knn"
    assert result["value"] == result["metrics"]["top1"]
    assert result["metrics"]["image_size"] == 32
    assert result["parameters"]["k"] == 3
    assert result["parameters"]["temperature"] == 0.07
    assert "torch" in result["versions"]


def test_linear_seg(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "random:tiny", "--data", str(toy / "segmentation")]
    assert main(["linear-seg", *options, "--image-size", "32", "--iterations", "3"]) == 0
    assert "miou: " in capsys.readouterr().out


def test_zero_shot_needs_a_text_tower(toy: Path) -> None:
    with pytest.raises(ValueError, match="'random:tiny' cannot be evaluated on zero_shot"):
        main(["zero-shot", "--model", "random:tiny", "--data", str(toy / "classification")])


def test_sam_coco(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
    pytest.importorskip("pycocotools", reason="needs the extra 'eval'")
    assert (
        main(["sam-coco", "--model", "toy-sam", "--data", str(toy / "coco"), "--limit", "2"]) == 0
    )
    assert "all: " in capsys.readouterr().out


def test_bad_usage(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "linear-seg" in capsys.readouterr().out
    with pytest.raises(UsageError, match="unknown task 'knm'; known: knn"):
        main(["knm"])
    with pytest.raises(ValueError, match="cannot read folder"):
        main(["knn", "--model", "random:tiny", "--data", str(toy / "nowhere")])
    with pytest.raises(ValueError, match="unknown model 'nix'; known: toy"):
        main(["knn", "--model", "nix", "--data", str(toy / "classification")])
