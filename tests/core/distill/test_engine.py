"""Ways to run the same step in less memory or time: the same gradients come out."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from radio_core.distill.config import EngineConfig, TrainConfig
from radio_core.distill.engine import WeightAverage, set_up_student
from radio_core.distill.groups import StageConfig
from radio_core.distill.step import TrainStep
from radio_core.distill.trainer import train
from radio_core.models import ERadioConfig, RadioConfig, RadioModel
from radio_core.models.block import Block
from radio_core.models.spectral import SpectralWeight, apply_spectral, iterate_spectral
from radio_core.processes import Processes

MakeRun = Callable[..., TrainConfig]
Gradients = Callable[[TrainConfig], list[dict[str, Tensor]]]
QUIET = Console(quiet=True)
ERADIO = ERadioConfig(dim=8, in_dim=4, depths=(1, 1, 1, 1), full_features_head_dim=16)


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gradients:
    """Train and return the gradient of every step, as the optimizer gets it."""
    update = TrainStep.update
    found: list[dict[str, Tensor]] = []

    def spy(self: TrainStep, lr: float, decay: float) -> bool:
        named = self.distiller.named_parameters()
        found.append({name: p.grad.clone() for name, p in named if p.grad is not None})
        return update(self, lr, decay)

    monkeypatch.setattr(TrainStep, "update", spy)
    runs = iter(range(9))

    def run(config: TrainConfig) -> list[dict[str, Tensor]]:
        found.clear()
        train(config.changed(run={"out": tmp_path / f"run{next(runs)}"}), QUIET)
        return list(found)

    return run


@pytest.fixture
def patched(tiny_run: MakeRun) -> MakeRun:
    """`tiny_run` with both groups at every step, and a student without BatchNorm."""

    def make(**changes: object) -> TrainConfig:
        config = tiny_run(**changes)
        stage = StageConfig(steps=3, groups=config.stages[1].groups, groups_per_step="all")
        student = replace(config.student.backbone, stem="patch")
        return config.changed(
            stages=(stage,), student={"backbone": student}, optim={"warmup_steps": 1}
        )

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
    same(gradients(config), gradients(config.changed(engine={"compile": True})), 1e-5)


def test_the_gradient_of_all_groups_is_the_mean_by_rate(
    patched: MakeRun, gradients: Gradients
) -> None:
    config = patched(spectral=False, normalization="none")
    both = gradients(config)[0]
    low, high = config.stages[0].groups
    assert (low.rate, high.rate) == (2.0, 1.0)
    head = "student.adaptors.sam.feature_head.fc1.weight"
    doubled = (replace(low, rate=4.0), high)  # its weight goes from 1/3 to 1/5
    other = gradients(config.changed(stages=(replace(config.stages[0], groups=doubled),)))[0]
    torch.testing.assert_close(other[head] * 5, both[head] * 3, rtol=1e-4, atol=1e-7)


def test_stages_have_their_own_peak_and_weight_decay(
    tiny_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_run(warmup_steps=0)
    first, second = config.stages
    stages = (replace(first, steps=1), replace(second, steps=1, lr=1e-2, weight_decay=0.5))
    met = []

    def spy(self: TrainStep, lr: float, decay: float) -> bool:
        met.append((decay, lr))
        return True

    monkeypatch.setattr(TrainStep, "update", spy)
    train(config.changed(stages=stages), QUIET)
    assert met[0] == (0.02, pytest.approx(config.optim.lr / 2))  # the cosine after one step of two
    assert met[1][0] == 0.5


def test_teachers_that_make_room_give_the_same_gradients(
    patched: MakeRun, gradients: Gradients
) -> None:
    config = patched()
    same(gradients(config), gradients(config.changed(targets={"offload": True})), 0.0)


def test_what_a_student_cannot_do_is_refused(tiny_run: MakeRun) -> None:
    config = tiny_run()
    with pytest.raises(ValueError, match=r"parallel fsdp needs several processes.*torchrun"):
        train(config.changed(engine={"parallel": "fsdp"}), QUIET)
    student = RadioModel(RadioConfig(backbone=ERADIO))
    with pytest.raises(ValueError, match="cannot do activation_checkpointing"):
        set_up_student(student, EngineConfig(activation_checkpointing=True), Processes())


HEAD = "adaptors.clip.feature_head.fc1.weight"


def test_the_average_follows_its_formula() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = WeightAverage(layer, 0.5)
    wanted = layer.weight.item()
    for number, value in enumerate([1.0, 3.0, -2.0, 4.0, 0.5, 7.0, 8.0, 9.0, 1.0], start=1):
        nn.init.constant_(layer.weight, value)
        average.update(number)
        decay = min(0.5, (1 + number) / (10 + number))
        wanted = decay * wanted + (1 - decay) * value
        assert average.tensors["weight"].item() == pytest.approx(wanted, rel=1e-6)
    assert (1 + 9) / (10 + 9) > 0.5  # both branches were met


def test_an_average_of_other_weights_is_refused() -> None:
    average = WeightAverage(nn.Linear(1, 1), 0.5)
    with pytest.raises(ValueError, match="other weights: bias"):
        average.load({"weight": torch.zeros(1, 1)})


def test_the_saved_student_is_the_average(tiny_run: MakeRun) -> None:
    config = tiny_run(max_steps=6, ema=0.6, normalization="none")
    train(config, QUIET)
    folder = config.run.out / "checkpoints/step-00000006"
    average = load_file(folder / "average.safetensors")[f"student.{HEAD}"]
    last = load_file(folder / "model.safetensors")[f"student.{HEAD}"]
    saved = load_file(config.run.out / "student/model.safetensors")
    torch.testing.assert_close(saved[HEAD], average)
    assert not torch.allclose(average, last, rtol=0, atol=1e-5)


def test_a_resumed_average_equals_an_uninterrupted_one(tiny_run: MakeRun, tmp_path: Path) -> None:
    config = tiny_run(ema=0.9)
    train(config.changed(run={"max_steps": 3}), QUIET)
    train(config.changed(run={"max_steps": 6, "resume": True}), QUIET)
    whole = config.changed(run={"out": tmp_path / "whole", "max_steps": 6})
    train(whole, QUIET)
    for name in ("checkpoints/step-00000006/average.safetensors", "student/model.safetensors"):
        assert (config.run.out / name).read_bytes() == (whole.run.out / name).read_bytes()


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
