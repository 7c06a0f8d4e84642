from typing import Any

import pytest
import torch
from torch import Tensor

from radio_core import RadioModel, load_model
from radio_core.models import RadioConfig
from radio_core.models.eradio import eradio_config
from radio_llava.features import feature_dim, freeze_unused, normalised, tower_features
from radio_llava.tower_config import TowerConfig


@pytest.fixture(scope="module")
def toy() -> RadioModel:
    return load_model("toy")


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(64, 40), (24, 64), (64, 40)]
    return [torch.rand(3, height, width, generator=generator) for height, width in sizes]


def test_a_batch_of_mixed_sizes_equals_one_image_at_a_time(
    toy: RadioModel, images: list[Tensor]
) -> None:
    config = TowerConfig(model="toy")
    with torch.no_grad():
        together = tower_features(toy, images, config)
        alone = [tower_features(toy, [image], config)[0] for image in images]
    assert [len(x) for x in together] == [40, 24, 40]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_the_default_is_the_backbones_last_features(toy: RadioModel, images: list[Tensor]) -> None:
    with torch.no_grad():
        found = tower_features(toy, images[0][None], TowerConfig(model="toy"))
        expected = toy(images[0][None])
    assert torch.equal(found[0], expected.features[0])


def test_layers_are_put_side_by_side_in_the_order_asked_for(
    toy: RadioModel, images: list[Tensor]
) -> None:
    config = TowerConfig(model="toy", layers=(-1, 0))
    with torch.no_grad():
        found = tower_features(toy, images[:1], config)[0]
        first, last = toy.forward_intermediates(
            images[0][None], [0, -1], output_fmt="NLC", intermediates_only=True
        )
    assert torch.equal(found, torch.cat([last[0], first[0]], dim=-1))
    assert feature_dim(toy, config) == found.shape[-1] == 2 * toy.embed_dim


def test_an_adaptors_features_have_its_width(toy: RadioModel, images: list[Tensor]) -> None:
    for name in toy.adaptors:
        config = TowerConfig(model="toy", adaptor=name)
        with torch.no_grad():
            found = tower_features(toy, images[:1], config)[0]
        assert found.shape[-1] == feature_dim(toy, config)


def test_normalised_features_have_unit_scale() -> None:
    features = 500 * torch.randn(2, 7, 32).half() + 40
    layer_norm, unit = (normalised(features, how).float() for how in ("layer_norm", "unit_scale"))
    torch.testing.assert_close(layer_norm.mean(dim=-1), torch.zeros(2, 7), atol=2e-3, rtol=0)
    for scaled in (layer_norm, unit):
        rms = scaled.pow(2).mean(dim=-1).sqrt()
        torch.testing.assert_close(rms, torch.ones(2, 7), atol=2e-3, rtol=0)
    torch.testing.assert_close(
        torch.cosine_similarity(unit, features.float(), dim=-1), torch.ones(2, 7)
    )
    assert torch.equal(normalised(features, "none"), features)


@pytest.mark.parametrize(
    "choice", [{}, {"adaptor": "clip"}, {"layers": (1,)}, {"layers": (-1, 0)}, {"model": "e-radio"}]
)
def test_exactly_what_gets_gradients_is_left_to_be_trained(
    choice: dict[str, Any], images: list[Tensor]
) -> None:
    config = TowerConfig(**({"model": "toy"} | choice))
    student = RadioConfig(backbone=eradio_config("eradio_xxxtiny", dim=16))
    radio = load_model("toy") if config.model == "toy" else RadioModel(student).eval()
    freeze_unused(radio, config)
    sizes = images if config.model == "toy" else [torch.rand(3, 64, 96)]
    sum((x * torch.randn_like(x)).sum() for x in tower_features(radio, sizes, config)).backward()
    trained = {name for name, p in radio.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in radio.named_parameters() if p.grad is not None}
    assert any(name.startswith("backbone.") for name in trained)
    assert any("adaptors." in name for name in trained) == bool(config.adaptor)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TowerConfig(model="toy", layers=(99,)), "block indices"),
        (TowerConfig(model="toy", adaptor="llava"), "this model has"),
    ],
)
def test_unknown_features_name_the_known_ones(
    toy: RadioModel, config: TowerConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        feature_dim(toy, config)


def test_a_tower_config_survives_json() -> None:
    config = TowerConfig(model="radio_h", layers=(3, -1), normalize="layer_norm", aspect="pad")
    assert TowerConfig.from_dict(config.to_dict()) == config
    assert isinstance(config.to_dict()["layers"], list)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": ""}, "needs a model"),
        ({"resolution": 0}, "at least 1 pixel"),
        ({"aspect": "anyres"}, "known: native, pad, square"),
        ({"normalize": "batch"}, "known: none, layer_norm"),
        ({"layers": ()}, "at least one block"),
        ({"layers": (1,), "adaptor": "clip"}, "layers or an adaptor"),
    ],
)
def test_a_tower_config_refuses_what_makes_no_sense(
    fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TowerConfig(**({"model": "toy"} | fields))  # type: ignore[arg-type]
