"""The student that fits its teachers, and the losses of one batch."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from radio_core.distill.config import LossConfig, StudentConfig, TrainConfig
from radio_core.distill.groups import (
    GroupConfig,
    Normalization,
    StageConfig,
    TeacherConfig,
)
from radio_core.distill.losses import compare, cosine, mixed
from radio_core.distill.normalization import OutputStatistics
from radio_core.distill.step import Distiller
from radio_core.distill.student import export_student, student_config
from radio_core.models.radio import RadioModel
from radio_core.models.spectral import apply_spectral
from radio_core.models.vit import vit_config
from radio_core.processes import Processes
from radio_core.vision import ModelSpec, Output

Change = Callable[[TrainConfig], TrainConfig]


def spec(name: str, summary: int | None, features: int) -> ModelSpec:
    return ModelSpec(
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
        GroupConfig(teachers=("clip", "dino_v2"), batch_size=2, resolutions=(32,)),
        GroupConfig(teachers=("sam",), batch_size=2, resolutions=(64,), window_sizes=(4,)),
    )
    return TrainConfig(
        recipe="r",
        student=StudentConfig(backbone=vit_config("tiny", embed_dim=16, depth=2, grid_size=8)),
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
    student = student_config(config.changed(teachers={**config.teachers, "clip": clip}), SPECS)
    assert [adaptor.summary_dim for adaptor in student.adaptors] == [None, 10, None]
    assert student.backbone.num_cls_tokens == 1


def test_a_teacher_with_nothing_to_learn_is_refused(config: TrainConfig) -> None:
    sam = TeacherConfig(source="toy-sam", summary_weight=1.0, feature_weight=0.0)
    with pytest.raises(ValueError, match="teacher sam has no summary"):
        student_config(config.changed(teachers={**config.teachers, "sam": sam}), SPECS)


def targets(*names: str) -> dict[str, Output]:
    torch.manual_seed(4)
    outputs = {}
    for name in names:
        wanted = SPECS[name]
        summary = None if wanted.summary_dim is None else torch.randn(2, wanted.summary_dim)
        outputs[name] = Output(summary, 3 + 5 * torch.randn(2, wanted.feature_dim, 5, 5))
    return outputs


def fit(distiller: Distiller, config: TrainConfig, goals: dict[str, Output]) -> list[str]:
    statistics = OutputStatistics(config, SPECS)
    statistics.update(goals, (0, 1))
    known = {k: v for k, v in statistics.by_output.items() if k.partition("/")[0] in goals}
    return distiller.fit_standardizers(known, Processes())


def test_losses_are_those_of_the_paper_on_standardised_targets(config: TrainConfig) -> None:
    distiller = Distiller(config, SPECS).eval()
    goals, images = targets("clip", "dino_v2"), torch.rand(2, 3, 32, 32)
    assert fit(distiller, config, goals) == []
    losses = distiller(images, goals, None)
    outputs = distiller.student.forward_all(images, tuple(goals))
    assert set(losses.terms) == {f"{n}/{p}" for n in goals for p in ("summary", "features")}
    for name, goal in goals.items():
        mean = goal.features.mean(dim=(0, 2, 3), keepdim=True)
        std = goal.features.std(dim=(0, 2, 3), keepdim=True, correction=0)
        normal = (goal.features - mean) / std
        wanted = compare(mixed, outputs[name].features, normal, LossConfig())
        torch.testing.assert_close(losses.terms[f"{name}/features"], wanted)
        wanted = cosine(outputs[name].summary, goal.summary, LossConfig())
        torch.testing.assert_close(losses.terms[f"{name}/summary"], wanted)
    clip, dino = (losses.teachers[name] for name in goals)
    torch.testing.assert_close(clip, losses.terms["clip/summary"] + losses.terms["clip/features"])
    torch.testing.assert_close(
        dino, 2 * losses.terms["dino_v2/summary"] + 0.5 * losses.terms["dino_v2/features"]
    )
    torch.testing.assert_close(losses.total, clip + dino)
    assert losses.weights == {}


def test_alpha_and_beta_weigh_the_feature_loss(config: TrainConfig) -> None:
    torch.manual_seed(0)
    distiller = Distiller(config, SPECS).eval()
    goals, images = targets("sam"), torch.rand(2, 3, 64, 64)
    values = {}
    for alpha, beta in ((0.9, 0.1), (1.0, 0.0), (0.0, 1.0)):
        distiller.section = LossConfig(alpha=alpha, beta=beta)
        terms = distiller(images, goals, None).terms
        assert set(terms) == {"sam/features"}
        values[alpha] = terms["sam/features"].item()
    assert values[0.9] == pytest.approx(0.9 * values[1.0] + 0.1 * values[0.0], rel=1e-5)


def test_each_teacher_and_output_has_its_own_loss(config: TrainConfig) -> None:
    clip = replace(config.teachers["clip"], summary_loss="mse", feature_loss="l1")
    dino = replace(config.teachers["dino_v2"], feature_weight=0.0)
    config = config.changed(teachers={**config.teachers, "clip": clip, "dino_v2": dino})
    distiller = Distiller(config, SPECS).eval()
    goals, images = targets("clip", "dino_v2"), torch.rand(2, 3, 32, 32)
    terms = distiller(images, goals, None).terms
    # Table 3: the features of dino_v2 are not supervised.
    assert list(terms) == ["clip/summary", "clip/features", "dino_v2/summary"]
    outputs = distiller.student.forward_all(images, tuple(goals))
    summary, features = (outputs["clip"].summary, outputs["clip"].features)
    assert summary is not None
    gap = (summary - goals["clip"].summary).square().mean()
    torch.testing.assert_close(terms["clip/summary"], gap)
    fine = torch.nn.functional.interpolate(features, (5, 5), mode="bilinear")
    torch.testing.assert_close(terms["clip/features"], (fine - goals["clip"].features).abs().mean())


@pytest.mark.parametrize("kind", ["naive", "uncertainty", "ada_loss", "amtml_kd"])
def test_the_total_is_what_balancing_and_fixed_weights_make_of_the_terms(
    kind: str, config: TrainConfig
) -> None:
    torch.manual_seed(0)
    distiller = Distiller(config.changed(loss={"balancing": kind}), SPECS)
    goals, images = targets("clip", "dino_v2"), torch.rand(2, 3, 32, 32)
    distiller.balancer.observe({"clip/summary": torch.tensor(3.0)})
    losses = distiller(images, goals, None)
    fixed = {"clip/summary": 1, "clip/features": 1, "dino_v2/summary": 2, "dino_v2/features": 0.5}
    # At the start amtml_kd weighs all teachers alike, and uncertainty adds nothing.
    start = {"naive": 1, "uncertainty": 0.5, "ada_loss": 1, "amtml_kd": 0.5}[kind]
    wanted = sum(fixed[term] * start * loss for term, loss in losses.terms.items())
    torch.testing.assert_close(losses.total, wanted)
    losses.total.backward()
    learns = any(p.grad is not None for p in distiller.balancer.parameters())
    assert learns == (kind in ("uncertainty", "amtml_kd"))
    distiller.balancer.observe(losses.terms)


def test_two_plain_runs_and_a_balanced_one_start_from_the_same_student(config: TrainConfig) -> None:
    states = []
    for kind in ("naive", "amtml_kd"):
        torch.manual_seed(5)
        states.append(
            Distiller(config.changed(loss={"balancing": kind}), SPECS).student.state_dict()
        )
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_group_trains_the_backbone_and_its_own_heads_only(config: TrainConfig) -> None:
    distiller = Distiller(config, SPECS)
    distiller(torch.rand(2, 3, 64, 64), targets("sam"), 4).total.backward()
    with_gradient = {n for n, p in distiller.named_parameters() if p.grad is not None}
    assert all("adaptors.sam" in name for name in with_gradient if "adaptors" in name)
    without = {n for n, _ in distiller.named_parameters()} - with_gradient
    assert all("adaptors.clip" in name or "adaptors.dino_v2" in name for name in without)


def inverse(distiller: Distiller, output: str, values: torch.Tensor) -> torch.Tensor:
    return distiller.normalizers[output].inverse(values)


@pytest.mark.parametrize("kind", ["none", "standard", "global", "phi_s"])
def test_exported_heads_give_the_teachers_numbers(kind: Normalization, config: TrainConfig) -> None:
    torch.manual_seed(0)
    teachers = {
        "clip": replace(config.teachers["clip"], summary_normalization=kind, upsample=2),
        "dino_v2": replace(config.teachers["dino_v2"], summary_normalization=kind),
        "sam": replace(config.teachers["sam"], upsample=3),
    }
    config = config.changed(
        teachers=teachers, targets={"normalization": kind}, student={"spectral": True}
    )
    distiller = Distiller(config, SPECS).eval()
    for adaptor in distiller.student.adaptors.values():
        apply_spectral(adaptor)
    notes = fit(distiller, config, targets("clip", "dino_v2", "sam"))
    # 6, 9, 10 and 14 channels: no Hadamard matrix of these orders exists.
    assert len(notes) == (5 if kind == "phi_s" else 0)
    images, names = torch.rand(2, 3, 32, 32), ("clip", "dino_v2", "sam")
    inside = distiller.student.forward_all(images, names)
    exported = export_student(distiller.student, distiller.normalizers).forward_all(images, names)
    for name in names:
        features = inverse(distiller, f"{name}/features", inside[name].features)
        torch.testing.assert_close(exported[name].features, features, rtol=1e-4, atol=1e-4)
        if inside[name].summary is not None:
            summary = inverse(distiller, f"{name}/summary", inside[name].summary)
            torch.testing.assert_close(exported[name].summary, summary, rtol=1e-4, atol=1e-4)
    same = torch.allclose(exported["sam"].features, inside["sam"].features)
    assert same == (kind == "none")


@pytest.mark.parametrize("kind", ["uncertainty", "ada_loss", "amtml_kd"])
def test_balancing_and_normalisation_are_in_the_state_of_a_run(
    kind: str, config: TrainConfig
) -> None:
    config = config.changed(loss={"balancing": kind}, targets={"normalization": "phi_s"})
    distiller, again = Distiller(config, SPECS).eval(), Distiller(config, SPECS).eval()
    goals, images = targets("clip", "dino_v2"), torch.rand(2, 3, 32, 32)
    fit(distiller, config, goals)
    for parameter in distiller.balancer.parameters():
        torch.nn.init.normal_(parameter)
    distiller.balancer.observe(distiller(images, goals, None).terms)
    again.load_state_dict(distiller.state_dict())
    assert again(images, goals, None).numbers() == distiller(images, goals, None).numbers()


def test_exporting_leaves_the_student_in_training_alone(config: TrainConfig) -> None:
    distiller = Distiller(config.changed(student={"spectral": True}), SPECS).train()
    goals, images = targets("sam"), torch.rand(2, 3, 64, 64)
    fit(distiller, config, goals)
    before = {name: value.clone() for name, value in distiller.state_dict().items()}
    exported = export_student(distiller.student, distiller.normalizers)
    assert isinstance(exported, RadioModel)
    assert distiller.training
    assert not exported.training
    after = distiller.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    ours = exported.adaptors["sam"].feature_head.output.weight
    assert not torch.equal(ours, distiller.student.adaptors["sam"].feature_head.output.weight)
    distiller(images, goals, None).total.backward()  # it goes on learning
    assert any("parametrizations" in name for name in after)


@pytest.mark.parametrize("cached", [False, True])
def test_a_step_is_a_short_read(cached: bool) -> None:
    for module, extra in (
        ("open_clip", "clip"),
        ("transformers", "hf"),
        ("segment_anything", "sam"),
    ):
        pytest.importorskip(module, reason=f"needs the extra '{extra}'")
    tracing = pytest.importorskip("scripts.trace_step", reason="needs the checkout")
    entered = tracing.trace_step(cached)
    assert len(entered) <= 200
    assert len({file for file, _ in entered}) <= 35
