"""Files that `radio export` wrote, in the place of models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("gradio", reason="needs the extra 'demo'")
pytest.importorskip("open_clip", reason="needs the extra 'clip'")
pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
pytest.importorskip("onnxscript", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

import radio_demos
from radio_core import cli
from radio_core.data.toyworld import Scene
from radio_core.export.exportable import radio_exportable
from radio_core.export.onnx import write_onnx
from radio_core.export.runtime import ExportedModel, load_exported
from radio_core.models import AdaptorConfig, HeadConfig, RadioConfig, RadioModel, vit_config
from radio_core.zoo.load import load_model
from radio_demos.app import build_app
from radio_demos.drawing import example_pictures
from radio_demos.features import STUDENT, FeatureMaps, SideRange, build_features
from radio_demos.models import CannotServe, open_demo_model
from radio_demos.segment import Finder, build_segment
from radio_demos.zero_shot import Classifier, build_zero_shot
from radio_sam.export import ExportedImageEncoder, sam_exportable

WIDE = example_pictures()[-1]
TEMPLATES = "a {}\na photo of a {}"


@pytest.fixture(scope="session")
def model() -> RadioModel:
    """A small student that speaks toy-clip's language, with random weights."""
    torch.manual_seed(0)
    clip = AdaptorConfig(
        name="clip",
        features=HeadConfig(out_dim=6, hidden_dim=8),
        summary=HeadConfig(out_dim=64, hidden_dim=8),
        token_slot=0,
        text_tower="toy-clip",
    )
    small: dict[str, Any] = {"depth": 1, "embed_dim": 32, "num_heads": 2, "grid_size": 8}
    return RadioModel(
        RadioConfig(
            name="small",
            backbone=vit_config("tiny", **small, patch_size=8),
            adaptors=(
                clip,
                AdaptorConfig(name="other", features=HeadConfig(out_dim=5, hidden_dim=8)),
            ),
            preferred_resolution=(64, 64),
            max_resolution=128,
        )
    ).eval()


@pytest.fixture(scope="session")
def whole(model: RadioModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It with both adaptors, for images of every size."""
    path = tmp_path_factory.mktemp("exported") / "whole.onnx"
    write_onnx(radio_exportable(model, adaptors=("clip", "other")), path, precision="float32")
    return path


@pytest.fixture(scope="session")
def fixed(model: RadioModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its backbone alone, for images of one size."""
    path = tmp_path_factory.mktemp("exported") / "fixed.onnx"
    write_onnx(radio_exportable(model, size=(32, 48)), path, precision="float32")
    return path


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled student as the image encoder of the bundled SAM."""
    path = tmp_path_factory.mktemp("exported") / "encoder.onnx"
    write_onnx(sam_exportable(load_model("toy"), "toy"), path, precision="float32")
    return path


def markdown(app: Any) -> str:
    return "\n".join(str(b.value) for b in app.blocks.values() if b.get_block_name() == "markdown")


def test_the_maps_and_colours_of_a_file_are_those_of_the_model(
    model: RadioModel, whole: Path
) -> None:
    exported, plain = FeatureMaps(load_exported(whole)), FeatureMaps(model)
    assert exported.sides == plain.sides == SideRange(64, 128, 8, 64)
    found, wanted = exported.at(WIDE, 96), plain.at(WIDE, 96)
    assert [m.name for m in found] == [STUDENT, "clip head", "other head"]
    for one, other in zip(found, wanted, strict=True):
        assert (one.name, one.space, one.features.shape[1:]) == (other.name, other.space, (6, 12))
        torch.testing.assert_close(one.features, other.features, atol=1e-3, rtol=1e-3)
        colours = [maps.colours(WIDE, False)[one.space] for maps in (exported, plain)]
        pictures = [basis.render(one.features).astype(int) for basis in colours]
        assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_teachers_stand_beside_a_file(whole: Path) -> None:
    maps = FeatureMaps(load_exported(whole), ["toy-clip"])
    names = [found.name for found in maps.at(WIDE, 64, teachers=True)]
    assert names == [STUDENT, "clip head", "other head", "toy-clip (teacher)"]
    assert "toy-clip" in maps.colours(WIDE, False, teachers=True)


def test_a_file_for_one_size_has_that_size_alone(fixed: Path) -> None:
    maps = FeatureMaps(load_exported(fixed))
    assert maps.sides == SideRange(48, 48, 8, 48)
    assert maps.size(WIDE, 48) == (32, 48)
    assert maps.at(WIDE, 48)[0].features.shape == (32, 4, 6)
    with pytest.raises(ValueError, match="outside of 48 to 48"):
        maps.at(WIDE, 64)
    sliders = [b for b in build_features(fixed).blocks.values() if b.get_block_name() == "slider"]
    assert "48 x 32 pixels only" in sliders[0].info
    assert sliders[0].interactive is False


def test_the_probabilities_of_a_file_are_those_of_the_model(model: RadioModel, whole: Path) -> None:
    labels = "red star, blue ring, green circle"
    asked = (WIDE, labels, TEMPLATES)
    found = Classifier(load_exported(whole), None).compare(*asked)
    wanted = Classifier(model, None).compare(*asked)
    assert found is not None
    assert found == pytest.approx(wanted, abs=1e-3)
    assert max(found.values()) - min(found.values()) > 0.01


def test_the_masks_of_a_file_are_those_of_the_model(encoder: Path, scene: Scene) -> None:
    opened = open_demo_model(encoder)
    assert isinstance(opened, ExportedImageEncoder)
    rows, columns = np.nonzero(scene.objects[0].mask)
    prompt = f"{columns.mean():.0f},{rows.mean():.0f}"
    picture = Image.fromarray(scene.image)
    found, _, line = Finder(opened, "toy-sam", None).segment(picture, prompt, False)
    wanted, _, same = Finder(load_model("toy"), "toy-sam", None).segment(picture, prompt, False)
    assert np.array_equal(np.asarray(found), np.asarray(wanted))
    assert line.partition(". Image")[0] == same.partition(". Image")[0]
    area = int(line.partition("**RADIO**: ")[2].partition(" pixels")[0])
    assert area == pytest.approx(len(rows), rel=0.1)


def test_an_encoder_alone_finds_no_words(encoder: Path) -> None:
    opened = open_demo_model(encoder)
    with pytest.raises(ValueError, match="finds no words"):
        Finder(opened, "toy-sam", None).words(WIDE, "red")
    blocks = build_segment(encoder).blocks.values()
    words = [b for b in blocks if getattr(b, "label", None) == "Find by words"]
    assert [b.visible for b in words] == [False]


def test_tabs_that_cannot_use_a_file_say_what_they_need(
    whole: Path, fixed: Path, encoder: Path
) -> None:
    with pytest.raises(CannotServe, match="--for sam=SAM"):
        build_segment(whole)
    with pytest.raises(CannotServe, match="segment tab"):
        build_features(encoder)
    with pytest.raises(CannotServe, match="segment tab"):
        build_zero_shot(encoder)
    with pytest.raises(CannotServe, match=r"adaptors: none.*--adaptors clip"):
        build_zero_shot(fixed)


def test_the_whole_app_has_notes_in_their_place(whole: Path, encoder: Path) -> None:
    text = markdown(build_app(whole))
    assert text.count("Not with this model") == 1
    assert "--for sam=SAM" in text
    assert "What does the model see?" in text
    assert "Which words fit" in text
    text = markdown(build_app(encoder))
    assert text.count("encoder.onnx holds the image encoder") == 2
    assert "Click on something" in text


def test_the_command_refuses_a_single_tab_before_it_serves(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[Any] = []
    monkeypatch.setitem(radio_demos.__dict__, "launch", lambda app, **_: served.append(app))
    asked = ["--model", str(whole), "--device", "cpu"]
    assert cli.main(["demo", "segment", *asked]) == 1
    assert "this file holds a whole model" in capsys.readouterr().err
    assert cli.main(["demo", "zero-shot", *asked]) == 0
    assert len(served) == 1


def test_what_is_open_stays_as_it_is(model: RadioModel, whole: Path, tmp_path: Path) -> None:
    assert open_demo_model(model) is model
    opened = open_demo_model(str(whole))
    assert isinstance(opened, ExportedModel)
    assert open_demo_model(opened) is opened
    assert opened.device == model.device == torch.device("cpu")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"broken\.onnx"):
        open_demo_model(tmp_path / "broken.onnx")
    with pytest.raises(FileNotFoundError):
        open_demo_model("missing.onnx")
