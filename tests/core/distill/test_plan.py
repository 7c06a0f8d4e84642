"""The plan of a run: parameters, operations, memory and cost from shapes alone."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from radio_core.distill.config import TrainConfig
from radio_core.distill.plan import Machine, Plan, plan_run
from radio_core.distill.recipes import get_recipe
from radio_core.distill.step import Distiller
from radio_core.distill.teacher_facts import TeacherFacts, teacher_facts
from radio_core.teachers import load_teacher
from radio_core.teachers.segment_anything import SamConfig, build_sam

MakeRun = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def toy() -> Plan:
    pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    return plan_run(get_recipe("toy").changed(targets={"cached_views": 0}), Machine())


def test_parameters_are_those_of_the_student_that_is_trained(toy: Plan) -> None:
    config = toy.config
    specs = {name: load_teacher(t.source).spec for name, t in config.teachers.items()}
    student = Distiller(config, specs).student
    assert toy.heads == sum(p.numel() for p in student.adaptors.parameters())
    assert toy.backbone + toy.heads == sum(p.numel() for p in student.parameters())


def test_operations_are_those_of_a_real_forward_and_backward_pass(toy: Plan) -> None:
    config = toy.config
    group = config.stages[0].groups[0]
    specs = {name: load_teacher(t.source).spec for name, t in config.teachers.items()}
    student = Distiller(config, specs).student.eval()
    with FlopCounterMode(display=False) as counter:
        outputs = student(torch.rand(2, 3, 64, 64), "NCHW", group.teachers, 0)
        sum(part.sum() for o in outputs.values() for part in o if part is not None).backward()
    measured = counter.get_total_flops() / 2 * group.batch_size
    assert toy.stages[0][0].student_flops == pytest.approx(measured, rel=0.15)
    assert toy.stages[0][0].tokens == group.batch_size * 64


def test_a_step_of_all_groups_costs_their_sum_and_of_one_their_mean(toy: Plan) -> None:
    low, high = toy.stages[1]
    costs = [plan.student_flops + plan.teacher_flops for plan in (low, high)]
    assert toy.step_flops(1) == pytest.approx(sum(costs) / 2)
    first, second = toy.config.stages
    config = toy.config.changed(stages=(first, replace(second, groups_per_step="all")))
    both = plan_run(config, Machine())
    assert both.step_flops(1) == pytest.approx(sum(costs))
    steps = first.steps * both.step_flops(0) + second.steps * both.step_flops(1)
    assert both.total_flops == pytest.approx(steps)


def test_hours_and_price_follow_from_the_machine(toy: Plan) -> None:
    machine = Machine(gpus=4, gpu_tflops=1e-3, mfu=0.5, gpu_hour_price=3.0)
    plan = plan_run(toy.config, machine)
    assert plan.gpu_hours == pytest.approx(toy.total_flops / (1e9 * 0.5) / 3600)
    text = "\n".join(plan.lines())
    assert f"{3 * plan.gpu_hours:.2f} at 3 a GPU hour" in text
    assert f"{plan.gpu_hours / 4:.3g} hours on 4 x 0.001 TFLOPS at 50 %" in text
    for wrong in ({"gpus": 0}, {"mfu": 1.5}, {"gpu_tflops": 0.0}, {"gpu_hour_price": -1.0}):
        with pytest.raises(ValueError, match="must"):
            Machine(**wrong)  # type: ignore[arg-type]


def test_options_that_save_memory_need_less(toy: Plan) -> None:
    first, second = toy.config.stages
    config = toy.config.changed(stages=(first, replace(second, groups_per_step="all")))
    plain = plan_run(config, Machine(gpus=2)).memory
    engine = ({"activation_checkpointing": True}, {"accumulate": 4}, {"parallel": "fsdp"})
    for saving in ({"targets": {"offload": True}}, *({"engine": changes} for changes in engine)):
        assert plan_run(config.changed(**saving), Machine(gpus=2)).memory < plain, saving
    assert plan_run(config.changed(optim={"ema": 0.99}), Machine(gpus=2)).memory > plain


@pytest.mark.parametrize(
    ("source", "parameters"),
    [
        ("dinov2:facebook/dinov2-giant", 1136),
        ("dinov2:facebook/dinov2-base", 86.6),
        ("sam:vit_h:nowhere.pth", 636),
        ("sam:vit_b:nowhere.pth", 89),
    ],
)
def test_parameters_of_known_teachers_are_those_published(source: str, parameters: float) -> None:
    facts = teacher_facts(source)
    assert isinstance(facts, TeacherFacts)
    assert facts.parameters / 1e6 == pytest.approx(parameters, rel=0.02)
    assert facts.download is not None
    assert facts.download > 3e8


def test_operations_of_windowed_teachers_are_those_that_run() -> None:
    pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
    facts = teacher_facts("sam:vit_b:nowhere.pth")
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_sam(SamConfig()).image_encoder(torch.empty(1, 3, 1024, 1024))
    assert facts is not None
    assert facts.flops() == pytest.approx(counter.get_total_flops(), rel=0.15)


def test_local_teachers_are_described_by_their_files(tiny_run: MakeRun) -> None:
    config = tiny_run(cached_views=7)
    plan = plan_run(config, Machine())
    for name, teacher in config.teachers.items():
        spec, facts = load_teacher(teacher.source).spec, plan.teachers[name]
        assert facts is not None
        assert (facts.width, facts.patch_size) == (spec.feature_dim, spec.patch_size)
        assert (facts.input_size, facts.summary_dim) == (spec.input_size, spec.summary_dim)
        assert facts.download == 0
    assert plan.cache_bytes > 7 * 3 * 64**2
    assert all(group.teacher_flops == 0 for stage in plan.stages for group in stage)
