"""What every teacher keeps: frozen, in eval mode, at its own size, with its own normalisation."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from radio_core.registry import UnknownName
from radio_core.teachers import TOY_TEACHERS, Teacher, load_teacher
from radio_core.teachers.load import toy_teacher_folder
from radio_core.vision import ModelSpec, Output

NAMES = ("clip", "dino_v2", "sam")


class Echo(Teacher):
    """Gives back what it is given, so that a test sees the input of the wrapped model."""

    def __init__(self) -> None:
        super().__init__(
            ModelSpec(
                name="echo",
                input_size=16,
                mean=(0.5, 0.25, 0.0),
                std=(0.5, 0.25, 2.0),
                patch_size=1,
                summary_dim=None,
                feature_dim=3,
                licence="",
            )
        )
        self.layer = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
        self.freeze()

    def extract(self, images: torch.Tensor) -> Output:
        return Output(None, images)


def test_images_are_resized_and_then_normalised_per_channel() -> None:
    images = torch.rand(2, 3, 16, 16)
    seen = Echo()(images).features
    wanted = (images - torch.tensor([0.5, 0.25, 0]).view(3, 1, 1)) * torch.tensor([2, 4, 0.5]).view(
        3, 1, 1
    )
    torch.testing.assert_close(seen, wanted)
    for size in ((32, 32), (40, 24), (8, 8), (16, 17)):
        images = torch.rand(1, 3, *size)
        resized = F.interpolate(images, (16, 16), mode="bilinear", antialias=True)
        torch.testing.assert_close(Echo()(images).features, Echo()(resized.clamp(0, 1)).features)


@pytest.mark.parametrize("name", NAMES)
def test_a_teacher_stays_frozen_whatever_is_done_to_it(
    name: str, tiny_teachers: dict[str, str]
) -> None:
    teacher = load_teacher(tiny_teachers[name])
    parent = nn.ModuleList([teacher]).train()
    assert parent.training
    assert teacher.train() is teacher
    assert teacher.train(True) is teacher
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    output = teacher(images)
    assert not output.features.requires_grad
    assert torch.equal(teacher(images).features, output.features)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (50, 70)])
def test_outputs_have_the_shapes_of_the_spec(
    name: str, size: tuple[int, int], tiny_teachers: dict[str, str]
) -> None:
    teacher = load_teacher(tiny_teachers[name])
    spec = teacher.spec
    output = teacher(torch.rand(2, 3, *size))
    assert output.features.shape == (2, spec.feature_dim, spec.grid()[0], spec.grid()[0])
    assert output.features.dtype == torch.float32
    if spec.summary_dim is None:
        assert output.summary is None
    else:
        assert output.summary.shape == (2, spec.summary_dim)


def test_the_three_differ_in_everything(tiny_teachers: dict[str, str]) -> None:
    specs = [load_teacher(source).spec for source in tiny_teachers.values()]
    assert [spec.grid()[0] for spec in specs] == [4, 5, 8]
    assert len({spec.mean for spec in specs}) == len({spec.std for spec in specs}) == 3
    assert [spec.summary_dim for spec in specs] == [12, 20, None]


@pytest.mark.parametrize("name", TOY_TEACHERS)
def test_bundled_teachers_load_and_their_weights_are_small(name: str) -> None:
    library = {"toy-clip": ("open_clip", "clip"), "toy-dino": ("transformers", "hf")}
    module, extra = library.get(name, ("segment_anything", "sam"))
    pytest.importorskip(module, reason=f"needs the extra {extra!r}")
    teacher = load_teacher(name)
    assert teacher.spec.name == name
    assert teacher.spec.licence == "Apache-2.0"
    features = teacher(torch.rand(1, 3, 128, 128)).features
    assert features.isfinite().all()
    files = list(toy_teacher_folder(name).glob("*.safetensors"))
    assert [path for path in files if path.stat().st_size > 6e6] == []
    assert len(files) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("toy-cilp", r"did you mean 'toy-clip'.*known: toy-clip, toy-dino, toy-sam, open_clip:"),
        ("open_clip:", "known: toy-clip"),
        ("dinov2", "known: toy-clip"),
        ("", "known: toy-clip"),
    ],
)
def test_an_unknown_source_lists_the_known_ones(source: str, message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        load_teacher(source)


def test_an_unknown_open_clip_model_lists_the_known_ones() -> None:
    pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    with pytest.raises(UnknownName, match=r"unknown open_clip model 'ViT-B-33'; known: .*ViT-B-32"):
        load_teacher("open_clip:ViT-B-33/openai")
    for source in ("open_clip:ViT-B-32", "open_clip:ViT-B-32/opnai"):
        with pytest.raises(UnknownName, match=r"has no weights .*; name one of openai, laion400m"):
            load_teacher(source)


def test_a_directory_of_another_kind_is_no_dinov2(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    transformers.ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a 'vit' model; needed is one of dinov2"):
        load_teacher(f"dinov2:{tmp_path}")


def test_an_input_that_no_patches_tile_is_refused() -> None:
    values: dict[str, Any] = {"mean": (0, 0, 0), "std": (1, 1, 1), "summary_dim": None}
    with pytest.raises(ValueError, match="input_size 30 is not a multiple of patch_size 7"):
        ModelSpec(name="x", input_size=30, patch_size=7, feature_dim=1, licence="", **values)


def test_a_teacher_survives_copying_and_moving(tiny_teachers: dict[str, str]) -> None:
    teacher = load_teacher(tiny_teachers["clip"])
    twin = copy.deepcopy(teacher).to(torch.float64)
    assert twin.mean.dtype == torch.float64
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert "mean" not in teacher.state_dict()
