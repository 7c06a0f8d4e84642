"""A student that starts from another model: what it takes over, what not, and that it says so."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from radio_core.distill.config import StudentConfig, TargetsConfig, TrainConfig
from radio_core.distill.groups import GroupConfig, StageConfig, TeacherConfig
from radio_core.distill.normalization import FeatureStatistics
from radio_core.distill.step import Distiller
from radio_core.distill.student import WarmStart, export_student, warm_start
from radio_core.distill.trainer import train
from radio_core.models import RadioModel, TimmConfig, ViTConfig, vit_config
from radio_core.models.config import read_weights
from radio_core.processes import Processes
from radio_core.vision import ModelSpec

DIMS: dict[str, tuple[int | None, int]] = {"clip": (10, 6), "dino_v2": (12, 10), "sam": (None, 8)}
STUDENT = vit_config("tiny", embed_dim=16, depth=2, grid_size=8)


def distiller(
    *names: str,
    student: ViTConfig | TimmConfig = STUDENT,
    seed: int = 0,
    normalization: str = "standard",
    spectral: bool = False,
) -> Distiller:
    """A run's student with random weights and fitted normalisation."""
    specs = {
        name: ModelSpec(
            name=name,
            input_size=32,
            mean=(0, 0, 0),
            std=(1, 1, 1),
            patch_size=8,
            summary_dim=DIMS[name][0],
            feature_dim=DIMS[name][1],
            licence="",
        )
        for name in names
    }
    group = GroupConfig(teachers=names, batch_size=2, resolutions=(64,))
    config = TrainConfig(
        student=StudentConfig(backbone=student, spectral=spectral),
        teachers={
            name: TeacherConfig(source=f"toy-{name}", upsample=2 if name == "sam" else 1)
            for name in names
        },
        stages=(StageConfig(steps=1, groups=(group,)),),
        targets=TargetsConfig(normalization=normalization),  # type: ignore[arg-type]
    )
    torch.manual_seed(seed)
    made = Distiller(config, specs)
    for output in made.standardizers:
        name, part = output.split("/")
        width = DIMS[name][part == "features"]
        if width is not None and part == "features":
            statistics = FeatureStatistics(width, covariance=normalization == "phi_s")
            statistics.update(
                torch.randn(4, width, 8, 8) * 3 + torch.arange(float(width))[:, None, None]
            )
            made.fit_standardizers({output: statistics}, Processes())
    return made


def start(fresh: Distiller, source: Path | str) -> WarmStart:
    return warm_start(fresh.student, fresh.normalizers, str(source))


def saved(source: Distiller, folder: Path) -> RadioModel:
    student = export_student(source.student, source.normalizers)
    with torch.no_grad():  # as trained: no head is at its start
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    student.save_pretrained(folder)
    return student.eval()


@pytest.mark.parametrize("normalization", ["none", "standard", "global", "phi_s"])
@pytest.mark.parametrize("spectral", [False, True])
def test_a_student_of_the_same_shape_says_what_the_source_says(
    tmp_path: Path, normalization: str, spectral: bool
) -> None:
    names = ("clip", "dino_v2", "sam")
    source = saved(distiller(*names), tmp_path)
    fresh = distiller(*names, seed=1, normalization=normalization, spectral=spectral)
    report = start(fresh, tmp_path)
    assert report.left == report.unused == []
    images = torch.rand(2, 3, 64, 64)
    wanted = source.forward_all(images, names)
    for name, output in (
        export_student(fresh.student, fresh.normalizers).forward_all(images, names).items()
    ):
        torch.testing.assert_close(output.features, wanted[name].features, rtol=1e-3, atol=1e-4)
        if wanted[name].summary is not None:
            torch.testing.assert_close(output.summary, wanted[name].summary, rtol=1e-3, atol=1e-4)


def test_class_tokens_go_by_the_adaptors_that_read_them(tmp_path: Path) -> None:
    source = saved(distiller("clip", "dino_v2", "sam"), tmp_path)
    fresh = distiller("sam", "dino_v2", seed=1)
    report = start(fresh, tmp_path)
    tokens = fresh.student.backbone.get_parameter("patch_generator.cls_token.token")
    theirs = source.backbone.get_parameter("patch_generator.cls_token.token")
    assert torch.equal(tokens, theirs[1:])  # of dino_v2, and two registers
    assert report.adapted == ["class token of dino_v2", "2 registers"]
    assert report.unused == ["heads of clip"]
    assert "heads of sam" in report.taken


def test_what_does_not_fit_stays_fresh_and_is_listed(tmp_path: Path) -> None:
    saved(distiller("dino_v2"), tmp_path)
    student = replace(STUDENT, depth=3, grid_size=12, patch_size=8)
    fresh = distiller("dino_v2", "sam", student=student, seed=1)
    before = {name: value.clone() for name, value in fresh.student.state_dict().items()}
    report = start(fresh, tmp_path)
    assert any(name.startswith("blocks.2.") and "missing" in name for name in report.left)
    assert "heads of sam (missing)" in report.left
    assert "patch_generator.pos_embed resized to 144 positions" in report.adapted
    after = fresh.student.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert not any("blocks.2." in name or "adaptors.sam" in name for name in changed)
    assert any("blocks.1." in name for name in changed)
    text = "\n".join(report.lines())
    assert "left fresh" in text
    assert "…" in text


def test_heads_of_another_width_are_left_as_a_pair(tmp_path: Path) -> None:
    saved(distiller("clip", "dino_v2"), tmp_path)  # the widest teacher sets the hidden width
    report = start(distiller("clip", seed=1), tmp_path)
    assert report.left == ["heads of clip (other shapes)"]


def test_a_source_of_another_kind_or_width_is_refused(tmp_path: Path) -> None:
    saved(distiller("clip"), tmp_path)
    for student in (replace(STUDENT, embed_dim=32), TimmConfig(name="test_nfnet")):
        with pytest.raises(ValueError, match=r"its backbone \(ViT of width 16\) is not like"):
            start(distiller("clip", student=student), tmp_path)
    with pytest.raises(ValueError, match="unknown model 'radio_x'"):
        start(distiller("clip"), "radio_x")


def test_a_source_with_other_pixel_statistics_is_refused(tmp_path: Path) -> None:
    source = distiller("clip")
    model = export_student(source.student, source.normalizers)
    model.config = replace(model.config, mean=(0.5, 0.5, 0.5))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="normalises images with mean"):
        start(distiller("clip"), tmp_path)


def test_a_run_starts_from_a_folder_and_says_what_it_took(
    tiny_run: Callable[..., TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(tiny_run(out=tmp_path / "first", max_steps=1), Console(quiet=True))
    config = tiny_run(out=tmp_path / "second", max_steps=1, lr=1e-9, init_from=str(first.student))
    second = train(config, Console(width=10_000))
    assert "took over" in capsys.readouterr().out
    assert first.student is not None
    assert second.student is not None
    wanted, got = read_weights(first.student), read_weights(second.student)
    for name, value in wanted.items():
        if "running" not in name and "num_batches" not in name:  # BatchNorm of the step itself
            torch.testing.assert_close(got[name], value, rtol=1e-3, atol=1e-4)
