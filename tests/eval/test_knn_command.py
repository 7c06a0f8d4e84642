"""`radio eval knn` and `zero-shot` as users start them, and `radio bench knn`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from radio_core import cli
from radio_core.data.toyworld.export import export
from radio_eval.cli.bench_knn import simulated
from radio_eval.cli.evaluate import evaluate as main
from radio_eval.progress import silent


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy")
    export(out, 14, 9, parts=("classification",))
    return out / "classification"


def evaluate(data: Path, file: Path, *options: str, task: str = "knn") -> dict[str, Any]:
    """The result file of a run with a tiny random model."""
    command = [task, "--model", "random:tiny", "--data", str(data), "--json", str(file)]
    command += ["--device", "cpu", "--cache", str(file.parent / "cache"), *options]
    assert main(command) == 0
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def test_the_size_that_is_used_is_reported(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate(toy, tmp_path / "a.json", "--image-size", "45")
    output = capsys.readouterr()
    assert result["metrics"]["image_size"] == 48
    assert result["parameters"]["images"] == {"resize": "RADIO's", "size": 48, "step": 8}
    assert "images have 48 pixels instead of 45" in output.err
    assert "temperature: 0.07" in output.out
    assert "amp: float32" in output.out


def test_a_second_run_finds_the_summaries(toy: Path, tmp_path: Path) -> None:
    first = evaluate(toy, tmp_path / "a.json", "--image-size", "32", "--block-size", "4")
    files = sorted((tmp_path / "cache").glob("*/*.safetensors"))
    assert len(files) == 4 + 3
    times = [path.stat().st_mtime_ns for path in files]
    again = evaluate(toy, tmp_path / "b.json", "--image-size", "32", "--block-size", "4")
    assert [path.stat().st_mtime_ns for path in files] == times
    assert again["metrics"] == first["metrics"]
    assert again["data"]["train"]["images"] == 14


def test_preprocessing_can_be_chosen(toy: Path, tmp_path: Path) -> None:
    options = ("--no-cache", "--image-size", "56", "--preprocess")
    found = {
        name: evaluate(toy, tmp_path / "a.json", *options, name)["parameters"]["images"]
        for name in ("radio", "center-crop", "dinov2")
    }
    assert found["radio"] == {"resize": "RADIO's", "size": 56, "step": 8}
    crop = {"resize": "centre crop", "size": 56, "squash": False, "interpolation": "bicubic"}
    assert found["center-crop"] == {**crop, "shorter_side": 56}
    assert found["dinov2"] == {**crop, "shorter_side": 64}
    assert not (tmp_path / "cache").exists()


def test_unreadable_images_are_named_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(tmp_path / "toy", 6, 4, parts=("classification",))
    data = tmp_path / "toy/classification"
    broken = sorted((data / "val").rglob("*.*"))[0]
    broken.write_bytes(b"broken")
    result = evaluate(data, tmp_path / "a.json", "--image-size", "32")
    assert result["metrics"]["val_images"] == 3
    assert result["skipped"]["val images"]["each"] == {str(broken): "not an image"}
    assert result["skipped"]["train images"]["count"] == 0
    assert f"skipped {broken}: not an image" in capsys.readouterr().err


def test_zero_shot_uses_the_cache_and_keeps_its_templates(toy: Path, tmp_path: Path) -> None:
    pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    command = ["zero-shot", "--model", "toy-clip", "--data", str(toy), "--device", "cpu"]
    command += ["--cache", str(tmp_path / "cache"), "--json"]
    results = []
    for name in ("a.json", "b.json"):
        assert main([*command, str(tmp_path / name)]) == 0
        results.append(json.loads((tmp_path / name).read_text()))
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[0]["parameters"]["templates"]
    assert len(list((tmp_path / "cache").glob("*/*.safetensors"))) == 1


def test_images_of_another_size_than_the_model_takes_are_refused(toy: Path) -> None:
    pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    with pytest.raises(ValueError, match="'toy-clip' takes images of 64 pixels only"):
        main(["knn", "--model", "toy-clip", "--data", str(toy), "--image-size", "96"])


@pytest.mark.slow
def test_two_processes_give_what_one_gives(toy: Path, tmp_path: Path) -> None:
    options = ["eval", "knn", "--model", "random:tiny", "--data", str(toy), "--device", "cpu"]
    options += ["--image-size", "32", "--block-size", "3"]
    one = [sys.executable, "-m", "radio_core.cli", *options]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = [sys.executable, *launcher, "-m", "radio_core.cli", *options]
    for name, command in (("one", one), ("two", two), ("none", [*two, "--no-cache"])):
        out = ["--cache", str(tmp_path / name), "--json", str(tmp_path / f"{name}.json")]
        done = subprocess.run(
            [*command, *out],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
    results = [json.loads((tmp_path / f"{n}.json").read_text()) for n in ("one", "two", "none")]
    assert results[0]["metrics"] == results[1]["metrics"] == results[2]["metrics"]
    assert [result["processes"] for result in results] == [1, 2, 2]
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*/*.safetensors")}
        for name in ("one", "two")
    ]
    assert len(files[0]) == 5
    assert files[0] == files[1]


def test_bench_knn_measures_the_search_against_a_product(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    size = ["--train", "5000", "--dim", "16", "--queries", "20", "--repeats", "2"]
    places = ["--work", str(tmp_path / "work"), "--json", str(tmp_path / "a.json")]
    assert cli.main(["bench", "knn", *size, "--threads", "1", *places]) == 0
    torch.set_num_threads(threads)
    output = capsys.readouterr().out
    result = json.loads((tmp_path / "a.json").read_text())
    assert [row["train"] for row in result["search"]] == [1250, 2500, 5000]
    assert result["ratio"] == pytest.approx(
        result["search"][-1]["seconds"] / result["product_seconds"], rel=0.5
    )
    assert "search / product" in output
    assert result["peak_memory_gb"] > 0


def test_simulated_features_are_used_again_and_do_not_depend_on_who_made_them(
    tmp_path: Path,
) -> None:
    first = simulated(tmp_path, 5000, 8, silent)
    whole = first.rows(0, 5000)
    (tmp_path / "random-5000x8/000001.safetensors").unlink()
    assert torch.equal(simulated(tmp_path, 5000, 8, silent).rows(0, 5000), whole)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(5000), atol=1e-2, rtol=0)
    assert len(whole.unique(dim=0)) == 5000
