"""Ways to run the same step in less memory or time: the same gradients come out."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from radio_core.distill.config import StageConfig, TrainConfig
from radio_core.distill.execution import set_up_student
from radio_core.distill.step import TrainStep
from radio_core.distill.teacher_bench import TeacherBench
from radio_core.distill.trainer import train
from radio_core.models import ERadioConfig, RadioConfig, RadioModel
from radio_core.models.block import Block
from radio_core.models.spectral import SpectralWeight, apply_spectral, iterate_spectral
from radio_core.processes import Processes
from radio_core.teachers import Teacher

MakeRun = Callable[..., TrainConfig]
Gradients = Callable[[TrainConfig], list[dict[str, Tensor]]]
QUIET = Console(quiet=True)
ERADIO = ERadioConfig(dim=8, in_dim=4, depths=(1, 1, 1, 1), full_features_head_dim=16)


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gradients:
    """Train and return the gradient of every step, as the optimizer gets it."""
    apply_gradients = TrainStep.apply_gradients
    found: list[dict[str, Tensor]] = []

    def spy(self: TrainStep, lr: float) -> bool:
        named = self.distiller.named_parameters()
        found.append({name: p.grad.clone() for name, p in named if p.grad is not None})
        return apply_gradients(self, lr)

    monkeypatch.setattr(TrainStep, "apply_gradients", spy)
    runs = iter(range(9))

    def run(config: TrainConfig) -> list[dict[str, Tensor]]:
        found.clear()
        train(replace(config, out=tmp_path / f"run{next(runs)}"), QUIET)
        return list(found)

    return run


@pytest.fixture
def patched(tiny_run: MakeRun) -> MakeRun:
    """`tiny_run` with both groups at every step, and a student without BatchNorm."""

    def make(**changes: object) -> TrainConfig:
        config = tiny_run(**changes)
        stage = StageConfig(steps=3, groups=config.stages[1].groups, groups_per_step="all")
        student = replace(config.student, stem="patch")
        return replace(config, stages=(stage,), student=student, warmup_steps=1)

    return make


def same(ours: list[dict[str, Tensor]], theirs: list[dict[str, Tensor]], limit: float) -> None:
    """Fail unless the first gradients agree to `limit` of the whole norm, the later ones nearly."""
    assert len(ours) == len(theirs) == 3
    for step, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert one.keys() == other.keys()
        norm = torch.stack([value.norm() for value in one.values()]).norm()
        differences = [(one[key] - other[key]).norm() for key in one]
        assert torch.stack(differences).norm() <= (100 if step else 1) * limit * norm


def test_micro_batches_give_the_gradient_of_the_whole_batch(
    patched: MakeRun, gradients: Gradients
) -> None:
    same(gradients(patched()), gradients(patched(accumulate=3)), 1e-6)


def test_recomputed_activations_change_nothing(
    patched: MakeRun, gradients: Gradients, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = Block.forward, []

    def counted(self: Block, x: Tensor) -> Tensor:
        calls.append(x.shape)
        return forward(self, x)

    monkeypatch.setattr(Block, "forward", counted)
    kept = gradients(patched())
    count = len(calls)
    recomputed = gradients(patched(activation_checkpointing=True))
    same(kept, recomputed, 0.0)
    assert len(calls) == 3 * count


def test_compiled_blocks_give_the_same_gradients(
    patched: MakeRun, gradients: Gradients, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Everything but the generation of C++, which would take a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    config = patched()
    same(gradients(config), gradients(replace(config, compile=True)), 1e-5)


def test_the_gradient_of_all_groups_is_the_mean_by_rate(
    patched: MakeRun, gradients: Gradients
) -> None:
    config = patched(spectral=False, normalization="none")
    both = gradients(config)[0]
    low, high = config.stages[0].groups
    assert (low.rate, high.rate) == (2.0, 1.0)
    head = "student.adaptors.sam.feature_head.fc1.weight"
    doubled = (replace(low, rate=4.0), high)  # its weight goes from 1/3 to 1/5
    other = gradients(replace(config, stages=(replace(config.stages[0], groups=doubled),)))[0]
    torch.testing.assert_close(other[head] * 5, both[head] * 3, rtol=1e-4, atol=1e-7)


def test_stages_have_their_own_peak_and_weight_decay(
    tiny_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_run(warmup_steps=0)
    first, second = config.stages
    stages = (replace(first, steps=1), replace(second, steps=1, lr=1e-2, weight_decay=0.5))
    met = []

    def spy(self: TrainStep, lr: float) -> bool:
        met.append([(group["weight_decay"], lr) for group in self.optimizer.param_groups])
        return True

    monkeypatch.setattr(TrainStep, "apply_gradients", spy)
    train(replace(config, stages=stages), QUIET)
    half = config.lr / 2  # of the cosine, after one of two steps
    assert met[0] == [(0.02, pytest.approx(half)), (0.0, pytest.approx(half))]
    assert [decay for decay, _ in met[1]] == [0.5, 0.0]


def test_teachers_make_room_for_each_other(patched: MakeRun, gradients: Gradients) -> None:
    config = patched()
    same(gradients(config), gradients(replace(config, offload_teachers=True)), 0.0)

    moves = []

    class Spy(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def to(self, device: object) -> "Spy":  # type: ignore[override]
            moves.append((self.name, str(device)))
            return self

    spies: dict[str, Teacher] = {name: Spy(name) for name in "abc"}  # type: ignore[misc]
    bench = TeacherBench(spies, torch.device("meta"), offload=True)
    assert list(bench.take(("a", "b"))) == ["a", "b"]
    bench.take(("b", "c"))
    bench.take(("b", "c"))
    assert moves == [("a", "meta"), ("b", "meta"), ("a", "cpu"), ("c", "meta")]
    TeacherBench(spies, torch.device("meta"), offload=False).take(("a",))
    assert len(moves) == 4


def test_what_a_student_cannot_do_is_refused(tiny_run: MakeRun) -> None:
    config = tiny_run()
    with pytest.raises(ValueError, match=r"parallel fsdp needs several processes.*torchrun"):
        train(replace(config, parallel="fsdp"), QUIET)
    student = RadioModel(RadioConfig(backbone=ERADIO))
    with pytest.raises(ValueError, match="cannot do activation_checkpointing"):
        set_up_student(student, replace(config, activation_checkpointing=True), Processes())


def test_spectral_vectors_move_once_a_step_however_often_the_model_runs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5))
    apply_spectral(model, exclude=())
    spectral = next(m for m in model.modules() if isinstance(m, SpectralWeight))
    nn.init.normal_(spectral._u)
    before = spectral._u.clone()
    iterate_spectral(model.train())
    once = spectral._u.clone()
    assert not torch.equal(once, before)
    model(torch.rand(2, 6))
    assert torch.equal(spectral._u, once)
