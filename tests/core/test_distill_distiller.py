"""The student that fits its teachers, and the losses of one batch."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from radio_core.distill.config import GroupConfig, StageConfig, TeacherConfig, TrainConfig
from radio_core.distill.distiller import Distiller, student_config
from radio_core.distill.losses import cosine_distance, feature_loss
from radio_core.distill.normalization import FeatureStatistics
from radio_core.models.vit import vit_config
from radio_core.teachers import TeacherOutput, TeacherSpec

Change = Callable[[TrainConfig], TrainConfig]


def spec(name: str, summary: int | None, features: int) -> TeacherSpec:
    return TeacherSpec(
        name=name,
        input_size=32,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        patch_size=8,
        summary_dim=summary,
        feature_dim=features,
        licence="",
    )


SPECS = {
    "clip": spec("toy-clip", 14, 6),
    "dino_v2": spec("toy-dino", 10, 10),
    "sam": spec("toy-sam", None, 9),
}


@pytest.fixture
def config() -> TrainConfig:
    groups = (
        GroupConfig(teachers=("clip", "dino_v2"), batch_size=2, resolution=32),
        GroupConfig(teachers=("sam",), batch_size=2, resolution=64, window_sizes=(4,)),
    )
    return TrainConfig(
        recipe="r",
        student=vit_config("tiny", embed_dim=16, depth=2, grid_size=8),
        teachers={
            "clip": TeacherConfig(source="toy-clip"),
            "dino_v2": TeacherConfig(source="toy-dino", summary_weight=2.0, feature_weight=0.5),
            "sam": TeacherConfig(source="toy-sam", summary_weight=0.0),
        },
        stages=(StageConfig(steps=5, groups=groups),),
    )


def test_a_class_token_a_teacher_with_a_summary_and_heads_as_wide_as_the_widest(
    config: TrainConfig,
) -> None:
    student = student_config(config, SPECS)
    assert student.backbone.num_cls_tokens == 2
    assert student.summary_idxs == (0, 1)
    slots = {adaptor.name: adaptor.token_slot for adaptor in student.adaptors}
    assert slots == {"clip": 0, "dino_v2": 1, "sam": None}
    assert {adaptor.features.hidden_dim for adaptor in student.adaptors} == {14}
    assert [adaptor.features.num_inner for adaptor in student.adaptors] == [0, 0, 0]
    towers = [adaptor.text_tower for adaptor in student.adaptors]
    assert towers == ["toy-clip", None, None]
    assert student.teachers == ("toy-clip", "toy-dino", "toy-sam")
    assert (student.preferred_resolution, student.max_resolution) == ((32, 32), 64)
    assert student.supports_windows


def test_a_summary_without_weight_gets_no_head(config: TrainConfig) -> None:
    clip = TeacherConfig(source="toy-clip", summary_weight=0.0)
    student = student_config(replace(config, teachers={**config.teachers, "clip": clip}), SPECS)
    assert [adaptor.summary_dim for adaptor in student.adaptors] == [None, 10, None]
    assert student.backbone.num_cls_tokens == 1


def test_a_teacher_with_nothing_to_learn_is_refused(config: TrainConfig) -> None:
    sam = TeacherConfig(source="toy-sam", summary_weight=1.0, feature_weight=0.0)
    with pytest.raises(ValueError, match="teacher sam has no summary"):
        student_config(replace(config, teachers={**config.teachers, "sam": sam}), SPECS)


def targets(*names: str) -> dict[str, TeacherOutput]:
    torch.manual_seed(4)
    outputs = {}
    for name in names:
        wanted = SPECS[name]
        summary = None if wanted.summary_dim is None else torch.randn(2, wanted.summary_dim)
        outputs[name] = TeacherOutput(summary, 3 + 5 * torch.randn(2, wanted.feature_dim, 5, 5))
    return outputs


def test_losses_are_those_of_the_paper_on_standardised_targets(config: TrainConfig) -> None:
    distiller = Distiller(config, SPECS).eval()
    goals, images = targets("clip", "dino_v2"), torch.rand(2, 3, 32, 32)
    statistics = {name: FeatureStatistics(SPECS[name].feature_dim) for name in goals}
    for name, goal in goals.items():
        statistics[name].update(goal.features)
    distiller.fit_standardizers(statistics)
    losses = distiller.losses(images, goals, None)
    outputs = distiller.student.forward_all(images, tuple(goals))
    assert set(losses) == {f"{n}/{p}" for n in goals for p in ("summary", "features")}
    for name, goal in goals.items():
        mean = goal.features.mean(dim=(0, 2, 3), keepdim=True)
        std = goal.features.std(dim=(0, 2, 3), keepdim=True, correction=0)
        wanted = feature_loss(outputs[name].features, (goal.features - mean) / std, 0.9, 0.1)
        torch.testing.assert_close(losses[f"{name}/features"], wanted)
        wanted = cosine_distance(outputs[name].summary, goal.summary)
        torch.testing.assert_close(losses[f"{name}/summary"], wanted)
    totals = distiller.teacher_totals(losses)
    torch.testing.assert_close(totals["clip"], losses["clip/summary"] + losses["clip/features"])
    torch.testing.assert_close(
        totals["dino_v2"], 2 * losses["dino_v2/summary"] + 0.5 * losses["dino_v2/features"]
    )


def test_alpha_and_beta_weigh_the_feature_loss(config: TrainConfig) -> None:
    torch.manual_seed(0)
    distiller = Distiller(config, SPECS).eval()
    goals, images = targets("sam"), torch.rand(2, 3, 64, 64)
    values = {}
    for alpha, beta in ((0.9, 0.1), (1.0, 0.0), (0.0, 1.0)):
        distiller.config = replace(config, alpha=alpha, beta=beta)
        losses = distiller.losses(images, goals, None)
        assert set(losses) == {"sam/features"}
        values[alpha] = losses["sam/features"].item()
    assert values[0.9] == pytest.approx(0.9 * values[1.0] + 0.1 * values[0.0], rel=1e-5)


def test_a_group_trains_the_backbone_and_its_own_heads_only(config: TrainConfig) -> None:
    distiller = Distiller(config, SPECS)
    losses = distiller.losses(torch.rand(2, 3, 64, 64), targets("sam"), 4)
    sum(distiller.teacher_totals(losses).values()).backward()
    with_gradient = {n for n, p in distiller.named_parameters() if p.grad is not None}
    assert all("adaptors.sam" in name for name in with_gradient if "adaptors" in name)
    without = {n for n, _ in distiller.named_parameters()} - with_gradient
    assert all("adaptors.clip" in name or "adaptors.dino_v2" in name for name in without)


def test_the_window_changes_the_student(config: TrainConfig) -> None:
    deep = replace(config.student, depth=4, num_windowed=1)
    distiller = Distiller(replace(config, student=deep), SPECS).eval()
    images, goals = torch.rand(2, 3, 64, 64), targets("sam")
    with_window = distiller.losses(images, goals, 4)["sam/features"]
    assert with_window != distiller.losses(images, goals, None)["sam/features"]


def test_exporting_leaves_the_student_in_training_alone(config: TrainConfig) -> None:
    distiller = Distiller(replace(config, spectral=True), SPECS).train()
    statistics = FeatureStatistics(9)
    statistics.update(targets("sam")["sam"].features)
    distiller.fit_standardizers({"sam": statistics})
    before = {name: value.clone() for name, value in distiller.state_dict().items()}
    exported = distiller.export_student()
    assert distiller.training
    assert not exported.training
    after = distiller.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    ours = exported.adaptors["sam"].feature_head.output.weight
    assert not torch.equal(ours, distiller.student.adaptors["sam"].feature_head.output.weight)
