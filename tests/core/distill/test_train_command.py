"""`radio train` and `radio cache-teachers` as they are typed."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from radio_core import cli
from radio_core.config_file import read_config, write_config
from radio_core.distill import targets
from radio_core.distill.config import TrainConfig
from radio_core.distill.recipes import RECIPES, get_recipe
from radio_core.distill.targets import Targets
from radio_core.teachers import TOY_TEACHERS

MakeRun = Callable[..., TrainConfig]
Radio = Callable[..., tuple[int, str]]


@pytest.fixture
def radio(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Radio:
    """Run a command line; returns the exit code and what stderr said."""
    monkeypatch.delenv("RADIO_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "4000")  # rich and tyro wrap at the terminal's width

    def run(*arguments: Any) -> tuple[int, str]:
        code = cli.main([str(argument) for argument in arguments])
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def config_file(tiny_run: MakeRun, tmp_path: Path) -> Path:
    """A YAML file that makes the recipe toy tiny, with two steps."""
    path = tmp_path / "tiny.yaml"
    write_config(tiny_run(max_steps=2), path)
    return path


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder and its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def one_line(error: str) -> str:
    """The only line that is not about progress; fails if there are more."""
    lines = [line for line in error.splitlines() if line.startswith("radio ")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    return lines[0]


def test_train_says_where_the_student_is(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--config", str(config_file), "--out", str(out), "--max-steps", "3"]
    arguments += ["--seed", "5", "--checkpoint-every", "2"]
    assert cli.main(["train", "toy", *arguments]) == 0
    assert f"student after 3 steps: {out / 'student'}" in capsys.readouterr().out
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == [
        "step-00000002",
        "step-00000003",
    ]
    stored = read_config(TrainConfig, out / "config.yaml")
    assert (stored.run.seed, stored.run.max_steps, stored.run.checkpoint_every) == (5, 3, 2)
    assert cli.main(["train", "toy", *arguments, "--resume", "--max-steps", "4"]) == 0
    rows = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 3, 4]


@pytest.mark.parametrize("recipe", [name for name in RECIPES.entries if "timm" not in name])
def test_dry_run_prints_yaml_that_config_reads_back(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if recipe.startswith("toy"):  # the shapes of its teachers are read with their libraries
        pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    out = tmp_path / "out"
    options = ["--out", str(out), "--seed", "7", "--stages.0.groups.0.batch-size", "5"]
    assert cli.main(["train", recipe, *options, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(printed)
    first = get_recipe(recipe).stages[0]
    group = replace(first.groups[0], batch_size=5)
    stages = (
        replace(first, groups=(group, *first.groups[1:])),
        *get_recipe(recipe).stages[1:],
    )
    wanted = get_recipe(recipe).changed(stages=stages, run={"out": out, "seed": 7})
    assert read_config(TrainConfig, tmp_path / "printed.yaml") == wanted
    assert not out.exists()
    if recipe != "toy":  # once is enough for what does not depend on the recipe
        return
    arguments = ["train", "toy-full", "--config", str(tmp_path / "printed.yaml"), "--dry-run"]
    assert cli.main(arguments) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(printed)


def test_dry_run_tells_needs_and_costs_for_a_machine(
    radio: Radio, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = ["--gpus", "4", "--gpu-tflops", "989", "--mfu", "0.3", "--gpu-hour-price", "2.5"]
    options = ["train", "toy", "--config", str(config_file), "--data.sources", "nowhere"]
    assert cli.main([*options, "--dry-run", *machine]) == 0
    plan = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# ")]
    text = "\n".join(plan)
    for row in ("student", "teacher sam", "to download", "to cache", "stage 2", "memory", "price"):
        assert any(line.startswith(f"# {row} ") for line in plan), row
    assert "hours on 4 x 989 TFLOPS at 30 %" in text
    assert "at 2.5 a GPU hour" in text
    assert "an unknown number of images" in plan[-1]
    for wrong, message in {"--gpus 0": "must be positive", "--mfu much": "invalid float"}.items():
        code, error = radio(*options, "--dry-run", *wrong.split())
        assert code == 2
        assert message in one_line(error)
    code, error = radio(*options, "--gpus", "4")
    assert code == 2
    assert "gpus: only for --dry-run" in one_line(error)


@pytest.mark.parametrize("command", ["train", "cache-teachers"])
def test_help_names_the_recipes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in RECIPES.entries)
    assert cli.main([command]) == 2


@pytest.mark.parametrize("command", ["train", "cache-teachers"])
def test_an_unknown_recipe_lists_the_known_ones(command: str, radio: Radio) -> None:
    code, error = radio(command, "toi-full")
    assert code == 2
    assert "(did you mean 'toy-full'?); known: e-radio-b, " in one_line(error)


@pytest.mark.parametrize("command", ["train", "cache-teachers"])
def test_an_unknown_teacher_lists_the_known_ones(
    command: str, config_file: Path, radio: Radio, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--config", config_file, "--out", out, "--targets.cached-views", "4"]
    code, error = radio(command, "toy", *options, "--teachers.clip.source", "toy-klip")
    assert code == 2
    line = one_line(error)
    assert "unknown teacher 'toy-klip' (did you mean 'toy-clip'?)" in line
    assert all(name in line for name in (*TOY_TEACHERS, "open_clip:", "dinov2:", "sam:"))
    assert not out.exists()


@pytest.mark.parametrize(
    ("flag", "near"),
    [
        ("--bach-size", "--stages.0.groups.0.batch-size"),
        ("--teachers.klip.source", "--teachers.clip.source"),
        ("--lr", "--optim.lr"),
        ("--data", "--data.sources"),
    ],
)
def test_an_unknown_field_lists_the_known_ones(flag: str, near: str, radio: Radio) -> None:
    code, error = radio("train", "toy", flag, "3")
    assert code == 2
    line = one_line(error)
    assert f"unknown option '{flag}'" in line
    assert near in line
    assert "--stages.1.groups.1.window-sizes" in line


def test_an_unknown_field_of_a_file_lists_the_known_ones(radio: Radio, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("learning_rate: 1")
    code, error = radio("train", "toy", "--config", tmp_path / "c.yaml")
    assert code == 2
    assert "unknown field 'learning_rate'; known: recipe, run, data" in one_line(error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stages.0.groups.0.resolutions", "67"], "67 is not a multiple .* 8; nearest: 64"),
        (["--stages.1.groups.0.resolutions", "3"], "3 is not a multiple .* 8; nearest: 8"),
        (
            ["--student.backbone.patch-size", "16", "--stages.1.groups.1.resolutions", "120"],
            "nearest: 128",
        ),
        (
            ["--stages.1.groups.1.window-sizes", "5"],
            "windows of 5 patches tile no grid of the group .16 x 16.",
        ),
        (["--max-steps", "999999"], "max_steps must be in 1 … .* --stages.N.steps"),
        (["--seed", "-1"], "seed must not be negative"),
        (["--data.crop-scale", "0.5", "1.5"], "crop_scale"),
        (["--optim.lr", "0"], "lr and clip_grad must be positive"),
        (["--engine.threads", "0"], "threads must be at least 1"),
        (["--student.backbone.embed-dim", "127"], "not a multiple of num_heads 2"),
        (["--teachers.sam.feature-weight", "0"], "nor both zero"),
        (["--engine.precision", "fp8"], "fp32"),
        (["--loss.balancing", "fair"], "unknown balancer 'fair'; known: ada_loss"),
    ],
)
def test_values_that_do_not_fit_are_explained(
    options: list[str], message: str, radio: Radio, tmp_path: Path
) -> None:
    code, error = radio("train", "toy", "--out", tmp_path / "out", *options)
    assert code == 2
    assert re.search(message, " ".join(error.replace("│", " ").split())), error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_data_that_cannot_be_used_is_one_line_and_writes_nothing(
    config_file: Path, radio: Radio, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"no picture")
    (tmp_path / "file.png").write_bytes(b"no picture")
    cases = {
        "empty": "no images",
        "missing": "no such",
        "broken": "none of the 1",
        "file.png": "not",
    }
    for name, reason in cases.items():
        options = ["--out", tmp_path / "out", "--data.sources", tmp_path / name]
        code, error = radio("train", "toy", "--config", config_file, *options)
        assert code in (1, 2)
        line = one_line(error)
        assert reason in line
        assert name in line
        assert not (tmp_path / "out").exists()


def test_folders_that_are_in_use_are_left_alone(
    config_file: Path, radio: Radio, tmp_path: Path
) -> None:
    run, files, file = tmp_path / "run", tmp_path / "files", tmp_path / "file"
    assert radio("train", "toy", "--config", config_file, "--out", run)[0] == 0
    files.mkdir()
    (files / "thesis.txt").write_text("years of work")
    file.write_text("a file")
    before = tree(tmp_path)
    cases = [
        ([run], "holds another run: choose an empty folder, or continue that run with --resume"),
        ([files], "holds other files: choose an empty folder"),
        ([files, "--resume"], "holds no run that could be resumed"),
        ([file], "is a file, not a folder"),
        ([file / "below"], "ot a directory"),
        ([run, "--resume", "--optim.lr", "0.5"], "differing fields: optim.lr: 0.001 -> 0.5"),
        (
            [run, "--resume", "--data.sources", tmp_path / "nowhere", "--override"],
            "cannot read folder",
        ),
    ]
    for options, message in cases:
        code, error = radio("train", "toy", "--config", config_file, "--out", *options)
        assert code in (1, 2)
        assert message in one_line(error)
        assert tree(tmp_path) == before


def test_a_config_file_of_something_else_is_no_run(
    config_file: Path, radio: Radio, tmp_path: Path
) -> None:
    for number, text in enumerate(("just text", "a: [", "", "- 1")):
        out = tmp_path / f"out{number}"
        out.mkdir()
        (out / "config.yaml").write_text(text)
        code, error = radio("train", "toy", "--config", config_file, "--out", out, "--resume")
        assert code in (1, 2)
        assert "is not the config of a run" in one_line(error)
        assert tree(out) == {"config.yaml": text.encode()}


def test_a_non_finite_loss_is_exit_1(
    config_file: Path, radio: Radio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Targets.__call__

    def sick(self: Targets, batch: Any, *rest: Any) -> Any:
        outputs = call(self, batch, *rest)
        if batch.number == 2:
            outputs["clip"].features[0, 0, 0, 0] = float("nan")
        return outputs

    monkeypatch.setattr(Targets, "__call__", sick)
    code, error = radio("train", "toy", "--config", config_file, "--out", tmp_path / "out")
    assert code == 1
    assert "the loss of teacher clip is not finite at step 2" in one_line(error)


def test_cache_teachers_fills_what_train_then_uses(
    config_file: Path, radio: Radio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [
        "toy",
        "--config",
        config_file,
        "--out",
        tmp_path / "out",
        "--targets.cached-views",
        "10",
    ]
    code, error = radio("cache-teachers", *options)
    assert code == 0
    assert re.search(r"teacher outputs of 10 views take 0\.00 GB in .*cache", error)
    before = tree(tmp_path / "out")
    assert all(name.startswith("cache") for name in before)
    monkeypatch.setattr(targets.TeacherCache, "_fill_shard", None)  # nothing is computed again
    assert radio("train", *options)[0] == 0
    after = tree(tmp_path / "out")
    assert {name: after[name] for name in before} == before


def test_a_large_cache_needs_a_yes(
    config_file: Path, radio: Radio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "CONFIRM_BYTES", 1000)
    options = [
        "toy",
        "--config",
        config_file,
        "--out",
        tmp_path / "out",
        "--targets.cached-views",
        "10",
    ]
    for command in ("train", "cache-teachers"):
        code, error = radio(command, *options)
        assert code in (1, 2)
        line = one_line(error)
        assert "radio cache-teachers RECIPE --yes" in line
        assert "make it smaller with --targets.cached-views" in line
        assert not (tmp_path / "out").exists()
    assert radio("cache-teachers", *options, "--yes")[0] == 0
    assert radio("train", *options)[0] == 0


def test_there_is_nothing_to_cache_for_fresh_crops(config_file: Path, radio: Radio) -> None:
    code, error = radio("cache-teachers", "toy", "--config", config_file)
    assert code == 2
    assert "set --targets.cached-views" in one_line(error)


def test_skipped_files_are_listed_by_cache_teachers(
    config_file: Path, radio: Radio, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (40, 40), "red").save(photos / "good.png")
    (photos / "bad.png").write_bytes(b"")
    options = ["--config", config_file, "--data.sources", photos, "--targets.cached-views", "4"]
    code, error = radio(
        "cache-teachers", "toy", *options, "--targets.cache-dir", tmp_path / "cache"
    )
    assert code == 0
    assert f"skipped {photos / 'bad.png'}: empty file" in error
