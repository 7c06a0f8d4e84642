from pathlib import Path

import pytest
import torch

from radio_core.models import AdaptorConfig, HeadConfig, RadioConfig, RadioModel, vit_config
from radio_core.zoo import releases
from radio_core.zoo.load import load_model
from radio_core.zoo.releases import list_models, model_card

IMAGES = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return save(tmp_path / "student")


def save(directory: Path, supports_windows: bool = True) -> Path:
    torch.manual_seed(0)
    backbone = vit_config("tiny", embed_dim=16, depth=4, num_heads=2, num_cls_tokens=2)
    adaptors = (
        AdaptorConfig(
            name="clip",
            features=HeadConfig(out_dim=6, hidden_dim=8),
            summary=HeadConfig(out_dim=5, hidden_dim=8),
            token_slot=0,
            text_tower="toy-clip",
        ),
        AdaptorConfig(name="sam", features=HeadConfig(out_dim=7, hidden_dim=8)),
    )
    config = RadioConfig(
        backbone=backbone,
        adaptors=adaptors,
        teachers=("toy-clip", "toy-sam"),
        max_resolution=256,
        preferred_resolution=(64, 64),
        supports_windows=supports_windows,
        licence="Apache-2.0",
    )
    RadioModel(config).save_pretrained(directory)
    return directory


def test_a_directory_loads_ready_for_use(student: Path) -> None:
    model = load_model(student)
    assert not model.training
    assert model(IMAGES).features.shape == (1, 32, 16)
    assert list(load_model(str(student), adaptors=["sam", "clip"])(IMAGES))[1:] == ["sam", "clip"]
    assert list(load_model(student, adaptors="sam")(IMAGES)) == ["backbone", "sam"]


def test_window_schedule_can_be_overridden(student: Path) -> None:
    plain = load_model(student, window_size=2)
    assert (plain.window_size, plain.min_resolution_step) == (2, 16)
    features = plain(IMAGES).features
    for override in ({"num_windowed": 1}, {"num_windowed": 2}, {"num_global": 1}):
        model = load_model(student, window_size=2, **override)
        wanted = {"num_windowed": None, "num_global": None, **override}
        assert {name: getattr(model.config.backbone, name) for name in wanted} == wanted
        same = torch.allclose(model(IMAGES).features, features)
        assert same == (override == {"num_windowed": 2})  # the preset's own schedule


def test_dtype_is_that_of_the_backbone_only(student: Path) -> None:
    model = load_model(student, adaptors="clip", dtype=torch.bfloat16)
    output = model(IMAGES)
    assert output["backbone"].features.dtype == torch.bfloat16
    assert output["clip"].features.dtype == torch.float32
    assert model.adaptors["clip"].feature_head.fc1.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adaptors": ["dino"]}, "this model has: clip, sam"),
        ({"window_size": 0}, "at least 1"),
        ({"num_global": 0}, "num_global must be from 1"),
    ],
)
def test_wrong_options(student: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(student, **options)


def test_windows_are_refused_by_a_model_without_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no windowed mode"):
        load_model(save(tmp_path, supports_windows=False), window_size=2)


def test_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    for load in (load_model, model_card):
        with pytest.raises(ValueError, match=r"did you mean 'toy'\?.*known: toy"):
            load("toi")


def test_directory_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load_model(tmp_path)


def test_cards_tell_what_the_files_hold(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "BUNDLED", {"mine": student})
    card, *others = list_models()
    assert card == model_card("mine")
    assert all(release.hub_file for release in others)
    assert (card.name, card.patch_size, card.embed_dim) == ("mine", 8, 16)
    assert (card.adaptors, card.text_adaptors) == (("clip", "sam"), ("clip",))
    assert (card.max_resolution, card.preferred_resolution) == (256, (64, 64))
    assert (card.licence, card.hub_file, card.supports_windows) == ("Apache-2.0", None, True)
    assert card.teachers == ("toy-clip", "toy-sam")
    assert card.teacher_licences == ("Apache-2.0", "Apache-2.0")
    assert (card.windows, card.pos_align_corners) == ("2 per global", False)
    model = load_model(student)
    assert card.parameters == sum(t.numel() for t in model.state_dict().values())
