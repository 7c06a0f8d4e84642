"""Teachers as LLaVA's vision towers."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("open_clip", reason="needs the extra 'clip'")
pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
pytest.importorskip("transformers", reason="needs the extra 'hf'")

from radio_core.teachers import TOY_TEACHERS, load_teacher
from radio_llava.teacher_tower import RECORDED_TEACHER, TeacherVisionTower


def arguments(**values: Any) -> SimpleNamespace:
    return SimpleNamespace(**({"mm_vision_select_layer": -2} | values))


@pytest.fixture(scope="module")
def tower() -> TeacherVisionTower:
    return TeacherVisionTower("toy-dino", arguments())


@pytest.mark.parametrize("name", TOY_TEACHERS)
def test_tokens_are_the_teachers_features_row_by_row(name: str) -> None:
    tower = TeacherVisionTower(name, arguments())
    size = tower.config.image_size
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    maps = load_teacher(name)(images).features  # [2, F, h, w]
    tokens = tower(images)
    assert isinstance(tokens, Tensor)
    assert tokens.shape == (2, tower.num_patches, tower.hidden_size)
    side = tower.num_patches_per_side
    torch.testing.assert_close(tokens[:, 2 * side + 1], maps[:, :, 2, 1])
    listed = tower([*images])
    assert isinstance(listed, list)
    torch.testing.assert_close(torch.stack(listed), tokens)


def test_images_are_padded_with_the_mean_colour_to_the_teachers_square(
    tower: TeacherVisionTower,
) -> None:
    wide = Image.new("RGB", (200, 100), "white")
    pixels = tower.image_processor.preprocess(wide)["pixel_values"][0]
    assert pixels.shape == (3, 84, 84)
    mean = torch.tensor(tower.image_processor.image_mean)
    torch.testing.assert_close(pixels[:, 0, 0], mean, atol=1 / 255, rtol=0)
    torch.testing.assert_close(pixels[:, 42, 42], torch.ones(3))


def test_a_teacher_is_frozen_and_keeps_no_graph(tower: TeacherVisionTower) -> None:
    tower.train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert tower(torch.rand(1, 3, 84, 84)).grad_fn is None


def test_sizes_come_from_the_record_and_the_weights_must_fit_it(tower: TeacherVisionTower) -> None:
    lazy = TeacherVisionTower(
        "toy-dino", arguments(**{RECORDED_TEACHER: tower.record()}), delay_load=True
    )
    assert (lazy.hidden_size, lazy.num_patches) == (tower.hidden_size, tower.num_patches)
    assert not lazy.is_loaded
    other = tower.record() | {"hidden_size": 5}
    lazy = TeacherVisionTower("toy-dino", arguments(**{RECORDED_TEACHER: other}), delay_load=True)
    with pytest.raises(ValueError, match="put the teacher of its training there"):
        lazy.load_model()
    unknown = tower.record() | {"colour": 5}
    with pytest.raises(ValueError, match="colour"):
        TeacherVisionTower("toy-dino", arguments(**{RECORDED_TEACHER: unknown}))
    of_another = arguments(**{RECORDED_TEACHER: other | {"model": "toy-sam"}})
    assert TeacherVisionTower("toy-dino", of_another, delay_load=True).hidden_size == 128


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"radio_layers": [3]}, "leave out --radio_layers"),
        ({"radio_adaptor": "sam", "radio_resolution": 64}, "--radio_resolution, --radio_adaptor"),
        ({"unfreeze_mm_vision_tower": True}, "--unfreeze_mm_vision_tower"),
        ({"mm_vision_select_feature": "cls_patch"}, "a teacher gives patches"),
    ],
)
def test_flags_that_only_radio_has_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TeacherVisionTower("toy-dino", arguments(**values))


def test_images_of_another_size_and_unknown_teachers_are_refused(
    tower: TeacherVisionTower,
) -> None:
    with pytest.raises(ValueError, match="takes images of 84x84 pixels"):
        tower([torch.rand(3, 84, 84), torch.rand(3, 84, 70)])
    with pytest.raises(ValueError, match="known"):
        TeacherVisionTower("sam:nowhere", arguments())


def test_a_cpu_is_spared_llavas_cast_to_float16() -> None:
    tower = TeacherVisionTower("toy-sam", arguments())
    expected = tower(torch.full((1, 3, 128, 128), 0.5))
    assert tower.to(device="cpu", dtype=torch.float16).dtype == torch.float32
    tower.to(dtype=torch.bfloat16)
    found = tower(torch.full((1, 3, 128, 128), 0.5, dtype=torch.bfloat16))
    assert found.dtype == torch.bfloat16
    assert torch.cosine_similarity(found.float(), expected, dim=-1).min() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("name", TOY_TEACHERS)
def test_a_llava_is_trained_loaded_again_and_asked(
    name: str, llava_flags: Callable[..., list[str]], tmp_path: Path
) -> None:
    pytest.importorskip("llava", reason="needs llava-torch, see the extra 'llava'")
    pytest.importorskip("peft", reason="needs the extra 'llava'")
    from radio_llava.answering import Query, load_answerer
    from radio_llava.train import main

    out = tmp_path / "llava-teacher"
    changes = {"vision_tower": name, "radio_resolution": None, "max_steps": 2}
    assert main(llava_flags(**changes, output_dir=out)) == 0
    recorded = json.loads((out / "config.json").read_text())
    spec = load_teacher(name).spec
    assert recorded["mm_vision_tower"] == name
    assert recorded["mm_hidden_size"] == spec.feature_dim
    assert recorded[RECORDED_TEACHER]["image_size"] == spec.input_size

    answerer = load_answerer(out)
    assert answerer.image_tokens(30, 200) == spec.grid()[0] ** 2
    photo, other = Image.new("RGB", (50, 80), "red"), Image.new("RGB", (90, 20), "blue")
    query = Query(text="What colour is it?", images=(photo,))
    queries = [query, Query(text="And this?", images=(other,)), Query(text="Which day is it?")]
    together = answerer.answers(queries, max_new_tokens=4)
    assert together == [answerer.answers([q], max_new_tokens=4)[0] for q in queries]


@pytest.mark.slow
def test_mixed_samples_train_and_another_tower_takes_the_teachers_place(
    llava_flags: Callable[..., list[str]], mixed_conversations: Path, tmp_path: Path
) -> None:
    pytest.importorskip("llava", reason="needs llava-torch, see the extra 'llava'")
    pytest.importorskip("peft", reason="needs the extra 'llava'")
    from radio_llava.train import main

    out, again = tmp_path / "llava-first", tmp_path / "llava-again"
    shared: dict[str, Any] = {"data_path": mixed_conversations, "max_steps": 1}
    flags = llava_flags(**shared, vision_tower="toy-dino", radio_resolution=None, output_dir=out)
    assert main(flags) == 0
    changes = {"model_name_or_path": out, "output_dir": again, **shared}
    with pytest.raises(ValueError, match="leave out --radio_resolution"):
        main(llava_flags(**changes, vision_tower="toy-dino"))
    assert main(llava_flags(**changes, vision_tower="toy")) == 0  # of the same width
    assert json.loads((again / "config.json").read_text())["mm_vision_tower"] == "toy"
    with pytest.raises(ValueError, match="projector takes features of width 128"):
        main(llava_flags(**changes, vision_tower="toy-sam", radio_resolution=None))
