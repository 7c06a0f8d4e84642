"""The Segment Anything adapter: the features that SAM's own neck takes."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from radio_core.config_file import from_mapping
from radio_core.registry import UnknownName
from radio_core.teachers import load_teacher
from radio_core.teachers.segment_anything import SamConfig, SamTeacher, build_sam, load_sam


@pytest.fixture
def official(sam_folder: Path, monkeypatch: pytest.MonkeyPatch) -> SamConfig:
    """Let the registry build a tiny model where it would build vit_b; returns its sizes."""
    registry = __import__("segment_anything").sam_model_registry
    fields = json.loads((sam_folder / "sam_config.json").read_text())
    config = from_mapping(SamConfig, fields)
    monkeypatch.setitem(registry, "vit_b", lambda checkpoint=None: build_sam(config))
    return config


def test_features_are_what_the_neck_receives(sam_folder: Path) -> None:
    teacher = load_teacher(f"sam:{sam_folder}")
    assert isinstance(teacher, SamTeacher)
    encoder, caught = teacher.sam.image_encoder, []
    hook = encoder.neck.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        prepared = torch.stack([teacher.sam.preprocess(image * 255) for image in images])
        embedding = encoder(prepared)
    hook.remove()
    output = teacher(images)
    assert output.summary is None
    torch.testing.assert_close(output.features, caught[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encoder.neck(output.features), embedding, rtol=1e-4, atol=1e-4)


def test_mean_and_std_are_in_unit_range(sam_folder: Path) -> None:
    spec = load_teacher(f"sam:{sam_folder}").spec
    assert spec.mean == pytest.approx((123.675 / 255, 116.28 / 255, 103.53 / 255))
    assert spec.std == pytest.approx((58.395 / 255, 57.12 / 255, 57.375 / 255))


def test_an_official_checkpoint_file(official: SamConfig, tmp_path: Path) -> None:
    sam = build_sam(official)
    torch.save(sam.state_dict(), tmp_path / "sam_vit_b.pth")
    teacher = load_teacher(f"sam:vit_b:{tmp_path / 'sam_vit_b.pth'}")
    assert isinstance(teacher, SamTeacher)
    loaded = teacher.sam.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in sam.state_dict().items())
    assert not teacher.sam.training


def test_a_checkpoint_that_would_run_code_is_refused(official: SamConfig, tmp_path: Path) -> None:
    proof = tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(proof), "w"))

    path = tmp_path / "sam_vit_b.pth"
    torch.save({"x": Bomb()}, path)
    with pytest.raises(ValueError, match="Nothing in it was executed"):
        load_teacher(f"sam:vit_b:{path}")
    path.write_bytes(pickle.dumps({"x": Bomb()}, protocol=2))
    with pytest.raises(ValueError, match="Nothing in it was executed"):
        load_teacher(f"sam:vit_b:{path}")
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 half a zip"])
def test_a_damaged_checkpoint_is_a_value_error(
    content: bytes, official: SamConfig, tmp_path: Path
) -> None:
    (tmp_path / "sam.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"sam\.pth is (empty|damaged)"):
        load_sam("vit_b", tmp_path / "sam.pth")


def test_weights_of_another_model_are_refused(official: SamConfig, tmp_path: Path) -> None:
    for content, reason in (
        ({"x": torch.zeros(1)}, r"weights in .*sam\.pth do not fit .*missing: .*unexpected: x"),
        (torch.zeros(1), "the weights do not fit SAM vit_b"),
    ):
        torch.save(content, tmp_path / "sam.pth")
        with pytest.raises(ValueError, match=reason):
            load_sam("vit_b", tmp_path / "sam.pth")


def test_a_damaged_directory_names_the_file(sam_folder: Path, tmp_path: Path) -> None:
    fields = json.loads((sam_folder / "sam_config.json").read_text())
    (tmp_path / "sam_config.json").write_text(json.dumps({**fields, "width": 3}))
    with pytest.raises(
        ValueError, match=r"unknown field 'width' in .*sam_config\.json; known: image"
    ):
        load_sam(str(tmp_path))
    (tmp_path / "sam_config.json").write_text(json.dumps(fields))
    (tmp_path / "sam.safetensors").write_bytes(b"xx")
    with pytest.raises(ValueError, match=r"sam\.safetensors is damaged"):
        load_sam(str(tmp_path))


def test_unknown_names_and_missing_files(tmp_path: Path) -> None:
    pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
    with pytest.raises(UnknownName, match="unknown SAM 'vit_x'; known: vit_h, vit_l, vit_b, or"):
        load_teacher("sam:vit_x")


def test_a_model_needs_its_checkpoint(official: SamConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name its checkpoint file"):
        load_teacher("sam:vit_b")
    with pytest.raises(FileNotFoundError):
        load_teacher(f"sam:vit_b:{tmp_path / 'nix.pth'}")
