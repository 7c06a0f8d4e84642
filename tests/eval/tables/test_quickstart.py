"""The command `radio quickstart`, on a sliver of everything."""

import dataclasses
import json
from pathlib import Path

import pytest

pytest.importorskip("open_clip", reason="needs the extra 'clip'")
pytest.importorskip("transformers", reason="needs the extra 'hf'")
pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
pytest.importorskip("pycocotools", reason="needs the extra 'eval'")
pytest.importorskip("jinja2", reason="needs the extra 'eval'")

from radio_core.cli import parse
from radio_core.distill.config import TrainConfig
from radio_core.distill.groups import StageConfig
from radio_core.distill.recipes import get_recipe
from radio_eval.cli import tables

SIZES = {
    "classification-train": 24,
    "classification-val": 8,
    "dense-train": 8,
    "dense-val": 4,
    "sam-val": 2,
    "head-iterations": 2,
}


def sliver(name: str) -> TrainConfig:
    config = get_recipe(name)
    stages = tuple(
        StageConfig(
            steps=1, groups=tuple(dataclasses.replace(g, batch_size=4) for g in stage.groups)
        )
        for stage in config.stages
    )
    return config.changed(
        stages=stages,
        data={"scenes": 8},
        targets={"cached_views": 8, "statistics_views": 8},
        run={"log_every": 1},
    )


def test_training_table_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "get_recipe", sliver)

    def run(*flags: str) -> int:
        sizes = [part for name, n in SIZES.items() for part in (f"--sizes.{name}", str(n))]
        argv = ["--out", str(tmp_path / "q"), *sizes, *flags]
        return tables.quickstart(parse(tables.QuickstartOptions, argv, prog="radio quickstart"))

    assert run() == 0
    printed = capsys.readouterr().out
    data = json.loads((tmp_path / "q/results.json").read_text())
    rows = data["rows"]
    assert list(rows) == [
        "student",
        "bundled",
        "toy-clip",
        "toy-dino",
        "toy-sam",
        "random",
        "chance",
        "filled boxes",
    ]
    assert all(name in printed for name in rows)
    assert None not in rows["student"].values()
    assert rows["toy-clip"]["sam_miou"] is None
    assert rows["toy-dino"]["zero_shot"] is None
    assert rows["toy-sam"]["sam_miou"] is not None
    assert data["metadata"]["sizes"]["sam_val"] == 2
    page = (tmp_path / "q/report.html").read_text()
    bundled = 6 * (rows["bundled"]["knn"] is not None)
    assert page.count("<img") == 4 * (1 + 4) + 2 * (1 + 2) + bundled
    assert "dino_v2/features" in page
    assert (tmp_path / "q/train/student/config.json").is_file()

    # the same again: nothing is trained twice, and a given student is taken as it is
    student = str(tmp_path / "q/train/student")
    assert run("--student", student) == 0
    again = json.loads((tmp_path / "q/results.json").read_text())
    assert again["rows"] == rows
