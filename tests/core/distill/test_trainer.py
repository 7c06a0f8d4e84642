"""What a run writes, what it refuses, and how it fails."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors import safe_open

from radio_core.config_file import read_config
from radio_core.distill.checkpoint import find_checkpoints, load_model
from radio_core.distill.config import TrainConfig
from radio_core.distill.engine import build_optimizer
from radio_core.distill.step import Distiller, NonFiniteLossError, TrainStep
from radio_core.distill.trainer import train
from radio_core.models.radio import RadioModel
from radio_core.teachers import Teacher, load_teacher
from radio_core.teachers.transformers_models import TransformersTeacher
from radio_core.vision import Output

MakeRun = Callable[..., TrainConfig]
QUIET = Console(quiet=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_writes_config_metrics_checkpoints_and_a_student(
    tiny_run: MakeRun, tmp_path: Path
) -> None:
    config = tiny_run()
    result = train(config, QUIET)
    assert (result.step, result.student, result.skipped) == (20, config.run.out / "student", 0)
    assert read_config(TrainConfig, config.run.out / "config.yaml") == config
    metrics = rows(config.run.out)
    assert [row["step"] for row in metrics] == list(range(1, 21))
    for row in metrics:
        names = ["clip", "dino_v2"] if row["group"] == "clip+dino_v2@32" else ["sam"]
        assert row["loss"] == pytest.approx(sum(row[name] for name in names))
        parts = [f"{name}/features" for name in names]
        parts += [f"{name}/summary" for name in names if name != "sam"]
        assert set(row) == {"step", "loss", "lr", "group", *names, *parts}
    assert {row["group"] for row in metrics} == {"clip+dino_v2@32", "sam@64"}
    assert metrics[0]["lr"] == pytest.approx(config.optim.lr / 4)
    student = RadioModel.from_pretrained(config.run.out / "student")
    assert set(student.adaptors) == {"clip", "dino_v2", "sam"}
    outputs = student.forward_all(torch.rand(1, 3, 32, 48), ("clip", "dino_v2", "sam"))
    assert outputs["clip"].summary.shape == (1, 12)
    assert outputs["dino_v2"].features.shape == (1, 20, 4, 6)
    assert outputs["sam"].summary is None
    assert outputs["sam"].features.shape == (1, 16, 8, 12)
    assert student.config.preferred_resolution == (32, 32)
    assert not any("parametrizations" in key for key in student.state_dict())


def test_the_losses_fall(tiny_run: MakeRun) -> None:
    config = tiny_run(cached_views=4, lr=1e-2)
    train(config.changed(run={"checkpoint_every": 20}), QUIET)
    low = [row["loss"] for row in rows(config.run.out) if row["group"] == "clip+dino_v2@32"]
    assert np.mean(low[-3:]) < 0.8 * low[0]


def test_no_teacher_weight_is_in_any_file_of_the_run(tiny_run: MakeRun) -> None:
    config = tiny_run(max_steps=2)
    train(config, QUIET)
    files = list(config.run.out.rglob("*.safetensors"))
    assert len(files) == 3
    for path in files:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
        optimizer = path.name == "optimizer.safetensors"
        known = ("student.", "standardizers.", "backbone.", "adaptors.")
        assert [n for n in names if not n.startswith(known) and not optimizer] == []
        assert path.stat().st_size < 400_000
    specs = {name: load_teacher(t.source).spec for name, t in config.teachers.items()}
    distiller = Distiller(config, specs)
    with safe_open(config.run.out / "checkpoints/step-00000002/model.safetensors", "pt") as file:
        assert set(file.keys()) == set(distiller.state_dict())


def test_only_the_newest_checkpoints_are_kept(tiny_run: MakeRun) -> None:
    config = tiny_run(checkpoint_every=4, keep_checkpoints=3)
    train(config, QUIET)
    steps = [checkpoint.step for checkpoint in find_checkpoints(config.run.out / "checkpoints")]
    assert steps == [12, 16, 20]
    assert len(list((config.run.out / "checkpoints").iterdir())) == 3


def test_the_saved_student_speaks_in_the_teachers_numbers(tiny_run: MakeRun) -> None:
    config = tiny_run(max_steps=1, spectral=False)
    train(config, QUIET)
    checkpoint = find_checkpoints(config.run.out / "checkpoints")[-1]
    teachers = {name: load_teacher(t.source) for name, t in config.teachers.items()}
    distiller = Distiller(config, {name: t.spec for name, t in teachers.items()})
    load_model(checkpoint, distiller)
    images, names = torch.rand(2, 3, 32, 32), ("dino_v2", "sam")
    inside = distiller.eval().student.forward_all(images, names)
    saved = RadioModel.from_pretrained(config.run.out / "student").forward_all(images, names)
    for name in names:
        standardizer = distiller.standardizers[f"{name}/features"]
        assert not torch.equal(standardizer.std, torch.ones_like(standardizer.std))
        again = standardizer(saved[name].features)
        torch.testing.assert_close(again, inside[name].features, atol=1e-4, rtol=1e-3)


def test_a_non_finite_loss_names_teacher_and_step_and_spares_the_checkpoint(
    tiny_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_run(checkpoint_every=4, normalization="none")
    extract, calls = TransformersTeacher.extract, []

    def sick(self: Teacher, images: torch.Tensor) -> Output:
        calls.append(len(images))
        output = extract(self, images)
        return output if len(calls) < 6 else Output(output.summary, output.features / 0)

    monkeypatch.setattr(TransformersTeacher, "extract", sick)
    with pytest.raises(NonFiniteLossError, match="teacher dino_v2 is not finite at step 6"):
        train(config, QUIET)
    assert [row["step"] for row in rows(config.run.out)] == [1, 2, 3, 4, 5]
    assert [c.step for c in find_checkpoints(config.run.out / "checkpoints")] == [4]
    monkeypatch.undo()
    assert train(config.changed(run={"resume": True, "max_steps": 7}), QUIET).step == 7


def test_a_non_finite_gradient_changes_no_weight(
    tiny_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_run(checkpoint_every=1)
    update = TrainStep.update

    def overflow(self: TrainStep, lr: float, decay: float) -> bool:
        if lr == pytest.approx(config.optim.lr * 3 / 4):
            for parameter in self.distiller.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(float("inf"))
        return update(self, lr, decay)

    monkeypatch.setattr(TrainStep, "update", overflow)
    message = "gradient of teacher clip, dino_v2 is not finite at step 3"
    with pytest.raises(NonFiniteLossError, match=message):
        train(config, QUIET)
    assert [c.step for c in find_checkpoints(config.run.out / "checkpoints")] == [1, 2]


def test_resume_refuses_another_config_unless_overridden(tiny_run: MakeRun) -> None:
    config = tiny_run(max_steps=2)
    train(config, QUIET)
    before = (config.run.out / "config.yaml").read_bytes()
    other = config.changed(optim={"lr": 5e-4}, run={"seed": 3, "resume": True})
    with pytest.raises(ValueError, match=r"lr: 0\.001 -> 0\.0005; run\.seed: 0 -> 3.*--override"):
        train(other, QUIET)
    assert (config.run.out / "config.yaml").read_bytes() == before
    train(other.changed(run={"override": True, "max_steps": 3}), QUIET)
    stored = read_config(TrainConfig, config.run.out / "config.yaml")
    assert (stored.optim.lr, stored.run.seed, stored.run.max_steps) == (5e-4, 3, 3)
    assert not stored.run.resume
    assert not stored.run.override


def test_a_run_of_another_version_is_refused(tiny_run: MakeRun) -> None:
    config = tiny_run(max_steps=1, resume=True, override=True)
    config.run.out.mkdir()
    (config.run.out / "config.yaml").write_text("recipe: toy\nlr: 0.001\nseed: 0\n")
    with pytest.raises(ValueError, match="written by another version"):
        train(config, QUIET)


def test_an_overridden_student_of_another_shape_is_refused_and_nothing_changes(
    tiny_run: MakeRun,
) -> None:
    config = tiny_run(max_steps=1)
    train(config, QUIET)
    before = (config.run.out / "config.yaml").read_bytes()
    student = replace(config.student.backbone, depth=3)
    with pytest.raises(ValueError, match=r"cannot resume from .*step-00000001"):
        train(
            config.changed(student={"backbone": student}, run={"resume": True, "override": True}),
            QUIET,
        )
    assert (config.run.out / "config.yaml").read_bytes() == before


def test_how_a_run_is_carried_out_may_change(tiny_run: MakeRun, tmp_path: Path) -> None:
    config = tiny_run(max_steps=2)
    train(config, QUIET)
    free = config.changed(
        run={
            "checkpoint_every": 1,
            "keep_checkpoints": 1,
            "log_every": 2,
            "max_steps": 4,
            "resume": True,
        },
        student={"dtype": "float16"},
        targets={"cache_dir": tmp_path},
        engine={"workers": 0},
    )
    train(free, QUIET)
    with safe_open(config.run.out / "student/model.safetensors", "pt") as file:
        assert file.get_tensor("adaptors.sam.feature_head.fc1.weight").dtype == torch.float16


def test_a_damaged_checkpoint_is_one_clear_error(tiny_run: MakeRun) -> None:
    config = tiny_run(max_steps=1)
    train(config, QUIET)
    path = config.run.out / "checkpoints/step-00000001/model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cannot resume from .*step-00000001"):
        train(config.changed(run={"resume": True, "max_steps": 2}), QUIET)


def test_a_cache_filled_beforehand_does_not_occupy_the_folder(tiny_run: MakeRun) -> None:
    config = tiny_run(cached_views=8, max_steps=1)
    (config.run.out / "cache").mkdir(parents=True)
    assert train(config, QUIET).step == 1
    assert len(list((config.run.out / "cache").iterdir())) == 1


@pytest.mark.parametrize("cached", [0, 9])
def test_broken_files_are_replaced_counted_and_listed_once(
    cached: int, tiny_run: MakeRun, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number in range(6):
        picture = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
        picture.save(folder / "sub" / f"{number}.png")
    whole = (folder / "sub" / "2.png").read_bytes()
    (folder / "sub" / "2.png").write_bytes(whole[: len(whole) // 2])
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture")
    config = tiny_run(sources=(str(folder),), cached_views=cached, max_steps=3)
    result = train(config, QUIET)
    again = train(config.changed(run={"max_steps": 6, "resume": True}), QUIET)
    assert result.skipped == again.skipped == 3
    lines = (config.run.out / "skipped.jsonl").read_text().splitlines()
    listed = {Path(row["path"]).name: row["reason"] for row in map(json.loads, lines)}
    assert len(lines) == len(listed) == 3
    assert set(listed) == {"2.png", "broken.jpg", "notes.txt"}
    assert listed["broken.jpg"] == "not an image"


def test_average_pooling_no_cpe_and_a_patch_stem_train_as_well(tiny_run: MakeRun) -> None:
    config = tiny_run(max_steps=2)
    changes = {"summary": "avg", "positions": "grid", "stem": "patch", "num_registers": 0}
    student = replace(config.student.backbone, **changes)
    train(config.changed(student={"backbone": student, "spectral": False}), QUIET)
    saved = RadioModel.from_pretrained(config.run.out / "student")
    outputs = saved.forward_all(torch.rand(1, 3, 32, 32), ("clip", "dino_v2"))
    assert outputs["clip"].summary.shape == (1, 12)


def test_no_weight_decay_on_vectors_gains_and_biases(tiny_run: MakeRun) -> None:
    config = tiny_run()
    specs = {name: load_teacher(t.source).spec for name, t in config.teachers.items()}
    distiller = Distiller(config, specs)
    names = {id(parameter): name for name, parameter in distiller.named_parameters()}
    decayed, free = build_optimizer(distiller, 1e-3, 0.02).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.02, 0.0)
    assert len(decayed["params"]) + len(free["params"]) == len(names)
    without = {names[id(parameter)] for parameter in free["params"]}
    assert all(
        name.endswith(("bias", "scale"))
        or "norm" in name
        or ".final.0." in name
        or ".layers." in name
        for name in without
    )
    assert all(not names[id(p)].endswith(("bias", "scale")) for p in decayed["params"])


@pytest.mark.parametrize("name", ["tiny_imagenet_50", "coco"])
@pytest.mark.parametrize("cached", [0, 12])
def test_two_steps_on_photos(name: str, cached: int, tiny_run: MakeRun, shared: Path) -> None:
    folder = shared / "data" / name
    if not folder.is_dir():
        pytest.skip(f"the reference folder has no data/{name}")
    config = tiny_run(sources=(str(folder),), cached_views=cached, max_steps=2)
    result = train(config, QUIET)
    assert result.student is not None
    metrics = rows(config.run.out)
    assert [row["step"] for row in metrics] == [1, 2]
    student = RadioModel.from_pretrained(result.student)
    assert student.forward_all(torch.rand(1, 3, 64, 96))["backbone"].features.shape[-2:] == (8, 12)
