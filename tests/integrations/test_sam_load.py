"""A RADIO-SAM from official checkpoints, and Sams by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

pytest.importorskip("segment_anything", reason="needs the extra 'sam'")

from segment_anything import SamPredictor, modeling
from segment_anything.modeling import Sam

from radio_core.models import RadioModel
from radio_core.models.fingerprint import weights_fingerprint
from radio_core.models.vit import VisionTransformer
from radio_core.open import open_model
from radio_core.teachers.segment_anything import SamConfig, build_sam
from radio_sam import build_radio_sam, load_radio_sam
from radio_sam.load import recognise_sam
from radio_sam.vision import SamVision, open_sam, sam_of

WIDTHS = {"vit_b": 768, "vit_h": 1280}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Official-format files of random weights: all behind the blocks, and one tensor of a block."""
    folder = tmp_path_factory.mktemp("checkpoints")
    files = {}
    for name, width in WIDTHS.items():
        torch.manual_seed(0)
        sam = build_sam(SamConfig(embed_dim=width, depth=0, global_blocks=()))
        state = {n: t for n, t in sam.state_dict().items() if not n.endswith("pos_embed")}
        state["image_encoder.blocks.0.attn.qkv.weight"] = torch.zeros(9, 9)
        files[name] = folder / f"sam_{name}.pth"
        torch.save(state, files[name])
    return files


@pytest.mark.parametrize("name", list(WIDTHS))
def test_official_parts_have_the_shapes_and_weights_of_the_file(
    name: str,
    checkpoints: dict[str, Path],
    make_student: Callable[..., RadioModel],
    picture: Callable[[int, int], NDArray[np.uint8]],
) -> None:
    radio = make_student(16, WIDTHS[name])
    sam = build_radio_sam(radio, checkpoints[name], name, window_size=16)
    assert isinstance(sam, Sam)
    assert not sam.training
    state = sam.state_dict()
    stored = torch.load(checkpoints[name], weights_only=True)
    parts = [n for n in stored if n.startswith(("prompt_encoder.", "mask_decoder."))]
    assert all(torch.equal(state[n], stored[n]) for n in parts)
    neck = [n for n in stored if ".neck." in n]
    assert neck
    assert all(torch.equal(state[n], stored[n]) for n in neck)

    predictor = SamPredictor(sam)
    predictor.set_image(picture(30, 40))
    assert predictor.input_size == (768, 1024)
    embedding = predictor.get_image_embedding()
    assert (embedding.shape, embedding.dtype) == ((1, 256, 64, 64), torch.float32)
    masks, ious, low = predictor.predict(box=np.array([3, 3, 20, 20]))
    assert (masks.shape, masks.dtype) == ((3, 30, 40), np.bool_)
    assert (ious.shape, ious.dtype) == ((3,), np.float32)
    assert (low.shape, low.dtype) == ((3, 256, 256), np.float32)


def test_sams_own_encoder_is_never_built(
    checkpoints: dict[str, Path],
    make_student: Callable[..., RadioModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_block(*args: Any, **options: Any) -> None:
        raise AssertionError("a block of SAM's encoder was built")

    monkeypatch.setattr(modeling.image_encoder, "Block", no_block)
    sam = build_radio_sam(make_student(16, 1280), checkpoints["vit_h"], image_size=64)
    assert isinstance(sam.image_encoder.radio.backbone, VisionTransformer)
    assert sum(p.numel() for p in sam.parameters()) < 6e6


@pytest.mark.parametrize("image_size", [512, (384, 512)])
def test_options_reach_the_encoder(
    checkpoints: dict[str, Path],
    make_student: Callable[..., RadioModel],
    image_size: int | tuple[int, int],
) -> None:
    sam = build_radio_sam(
        make_student(16, 768),
        checkpoints["vit_b"],
        "vit_b",
        window_size=4,
        image_size=image_size,
        skip_padding=True,
    )
    encoder = sam.image_encoder
    assert (encoder.img_size, encoder.window_size, encoder.skip_padding) == (512, 4, True)
    rows = 32 if image_size == 512 else 24
    assert encoder(torch.zeros(1, 3, 16 * rows, 512)).shape == (1, 256, rows, 32)


def test_parts_that_do_not_fit_are_named(
    checkpoints: dict[str, Path], make_student: Callable[..., RadioModel]
) -> None:
    with pytest.raises(ValueError, match=r"width 768, but .* takes 1280: use SAM vit_b"):
        build_radio_sam(make_student(16, 768), checkpoints["vit_h"], "vit_h")
    with pytest.raises(ValueError, match="is a SAM vit_b, not vit_h"):
        build_radio_sam(make_student(16, 1280), checkpoints["vit_b"], "vit_h")
    with pytest.raises(ValueError, match="unknown SAM model type 'vit_x'; known: vit_b, vit_l"):
        build_radio_sam(make_student(16, 768), checkpoints["vit_b"], "vit_x")
    with pytest.raises(ValueError, match="no adaptor 'clip'; its adaptors: sam"):
        build_radio_sam(make_student(16, 768), checkpoints["vit_b"], "vit_b", adaptor="clip")


def broken(checkpoint: Path, change: Callable[[dict[str, Tensor]], object], to: Path) -> Path:
    """A copy of the checkpoint after `change`."""
    state = torch.load(checkpoint, weights_only=True)
    change(state)
    torch.save(state, to)
    return to


def test_broken_checkpoints_are_explained(
    checkpoints: dict[str, Path], make_student: Callable[..., RadioModel], tmp_path: Path
) -> None:
    name, shape = "mask_decoder.iou_token.weight", "prompt_encoder.no_mask_embed.weight"
    neck = "image_encoder.neck.0.weight"
    cases: list[tuple[Callable[[dict[str, Tensor]], object], str]] = [
        (lambda state: state.pop(name), f"missing: {name}"),
        (lambda state: state.update({shape: torch.zeros(3)}), f"of another shape: {shape}"),
        (lambda state: state.update({"mask_decoder.x": torch.zeros(3)}), "unexpected: mask_dec"),
        (lambda state: state.update({neck: torch.zeros(8, 80, 1, 1)}), r"width 80; .*768 \(vit_b"),
        (lambda state: state.pop(neck), "is not an official SAM checkpoint"),
    ]
    radio = make_student(16, 768)
    for change, message in cases:
        path = broken(checkpoints["vit_b"], change, tmp_path / "broken.pth")
        with pytest.raises(ValueError, match=message):
            build_radio_sam(radio, path, "vit_b")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.pth is damaged"):
        build_radio_sam(radio, tmp_path / "text.pth", "vit_b")
    with pytest.raises(FileNotFoundError):
        build_radio_sam(radio, tmp_path / "absent.pth", "vit_b")


def test_files_of_the_old_format_are_read(
    checkpoints: dict[str, Path], make_student: Callable[..., RadioModel], tmp_path: Path
) -> None:
    state = torch.load(checkpoints["vit_b"], weights_only=True)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert recognise_sam(tmp_path / "old.pth") == "vit_b"
    build_radio_sam(make_student(16, 768), tmp_path / "old.pth", "vit_b")


def test_sams_are_found_by_name(
    checkpoints: dict[str, Path], make_student: Callable[..., RadioModel], tmp_path: Path
) -> None:
    toy = load_radio_sam()
    assert toy.image_encoder.img_size == 128
    assert load_radio_sam(image_size=(64, 96)).image_encoder.image_size == (64, 96)
    assert not hasattr(load_radio_sam("sam").image_encoder, "radio")
    make_student(16, 768).save_pretrained(tmp_path / "student")
    student = str(tmp_path / "student")
    file = checkpoints["vit_b"]
    for sam in (str(file), f"vit_b:{file}"):
        assert load_radio_sam(student, sam, image_size=32).image_encoder.grid_size == (2, 2)
    assert load_radio_sam(student, str(file)).image_encoder.img_size == 1024


def test_names_that_lead_nowhere_are_explained(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="takes no window_size"):
        load_radio_sam("sam", window_size=8)
    with pytest.raises(ValueError, match="unknown SAM 'nothing'; known: toy-sam, vit_b:CHECKPOINT"):
        load_radio_sam("toy", "nothing")
    with pytest.raises(ValueError, match="unknown SAM 'vit_h'; known: toy-sam"):
        load_radio_sam("sam", "vit_h")
    with pytest.raises(ValueError, match="unknown model"):
        load_radio_sam("nothing")
    with pytest.raises(ValueError, match="width 80, but this SAM's neck takes 768"):
        load_radio_sam("toy", str(checkpoints["vit_b"]))
    with pytest.raises(FileNotFoundError):
        load_radio_sam("toy", "absent.pth")


def test_the_sam_of_a_model(tmp_path: Path) -> None:
    radio, teacher = open_model("toy"), open_model("toy-sam")
    swapped = sam_of(radio, image_size=64)
    assert swapped.image_encoder.img_size == 64
    assert sam_of(teacher) is sam_of(teacher)
    own = open_sam("sam", device="cpu")
    assert weights_fingerprint(sam_of(own)) == weights_fingerprint(sam_of(teacher))
    images = torch.rand(1, 3, 50, 60)
    assert own(images).features.shape[-2:] == own.spec.grid()
    assert own.fingerprint() != SamVision("sam", swapped).fingerprint()
    with pytest.raises(ValueError, match="takes no window_size"):
        sam_of(teacher, window_size=8)
    with pytest.raises(ValueError, match="cannot be put into a Segment Anything"):
        sam_of(open_model("toy-clip"))
