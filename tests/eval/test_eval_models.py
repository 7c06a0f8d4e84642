"""RADIO models and teachers as the evaluators see them."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from radio_core.models import AdaptorConfig, HeadConfig, RadioConfig, RadioModel, vit_config
from radio_core.teachers import Teacher
from radio_core.vision import ModelSpec, Output
from radio_eval.models import from_radio, from_teacher, load_eval_model, random_like


def tiny_radio() -> RadioModel:
    torch.manual_seed(0)
    config = RadioConfig(
        backbone=vit_config("tiny", embed_dim=16, depth=1, num_cls_tokens=2),
        adaptors=(
            AdaptorConfig(
                name="dino_v2",
                features=HeadConfig(out_dim=6, hidden_dim=8),
                summary=HeadConfig(out_dim=5, hidden_dim=8),
                token_slot=1,
            ),
            AdaptorConfig(
                name="clip",
                features=HeadConfig(out_dim=6, hidden_dim=8),
                summary=HeadConfig(out_dim=7, hidden_dim=8),
                token_slot=0,
                text_tower="toy-clip",
            ),
        ),
        summary_idxs=(0, 1),
        preferred_resolution=(48, 48),
    )
    return RadioModel(config)


class Grey(Teacher):
    """A teacher that sees the mean colour of each cell."""

    def __init__(self, summary: bool) -> None:
        super().__init__(
            ModelSpec(
                name="grey",
                input_size=16,
                mean=(0, 0, 0),
                std=(1, 1, 1),
                patch_size=8,
                summary_dim=3 if summary else None,
                feature_dim=3,
                licence="",
            )
        )
        self.with_summary = summary
        self.freeze()

    def extract(self, images: Tensor) -> Output:
        features = torch.nn.functional.avg_pool2d(images, 8)
        return Output(features.amax(dim=(2, 3)) if self.with_summary else None, features)


def test_radio_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    radio = tiny_radio().train()
    model = from_radio(radio, "mine")
    assert not radio.training
    assert (model.name, model.image_size, model.resize_step, model.square) == ("mine", 48, 8, False)
    assert model.sam is None
    images = torch.rand(2, 3, 48, 32)
    outputs = radio.forward_all(images, ["clip"])
    assert model.summary is not None
    assert model.features is not None
    assert model.image_text is not None
    assert torch.equal(model.summary(images), outputs["backbone"].summary)
    assert model.features(images).shape == (2, 16, 6, 4)
    assert torch.equal(model.image_text.encode_image(images), outputs["clip"].summary)

    def encode(adaptor: str, texts: Sequence[str]) -> Tensor:
        return torch.full((len(texts), 7), float(adaptor == "clip"))

    monkeypatch.setattr(radio, "encode_text", encode)
    assert model.image_text.encode_text(["a", "b"]).sum() == 14


def test_an_adaptor_can_take_the_place_of_the_backbone() -> None:
    radio = tiny_radio()
    images = torch.rand(2, 3, 48, 32)
    dino, clip = from_radio(radio, "m", adaptor="dino_v2"), from_radio(radio, "m", adaptor="clip")
    outputs = radio.forward_all(images, ["clip", "dino_v2"])
    assert dino.summary is not None
    assert torch.equal(dino.summary(images), outputs["dino_v2"].summary)
    assert dino.image_text is None
    assert clip.image_text is not None
    assert len({model.fingerprint() for model in (dino, clip, from_radio(radio, "m"))}) == 3
    with pytest.raises(ValueError, match="dino_v2"):
        from_radio(radio, "m", adaptor="nix")
    with pytest.raises(ValueError, match="only RADIO models have adaptors"):
        load_eval_model("random:tiny", adaptor="clip")


def test_a_teacher_without_summary_gives_the_mean_of_its_features() -> None:
    images = torch.rand(2, 3, 24, 40)
    plain, pooled = from_teacher(Grey(summary=True)), from_teacher(Grey(summary=False))
    assert plain.summary is not None
    assert pooled.summary is not None
    assert pooled.features is not None
    assert plain.summary(images).shape == (2, 3)
    torch.testing.assert_close(pooled.summary(images), pooled.features(images).mean(dim=(2, 3)))
    assert plain.square
    assert plain.image_text is None
    assert plain.sam is None


def test_random_weights_differ_from_the_model_and_repeat() -> None:
    radio = tiny_radio()
    state = torch.get_rng_state()
    first, second = random_like(radio, seed=1), random_like(radio, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    name = "backbone.blocks.0.attn.qkv.weight"
    assert torch.equal(first.state_dict()[name], second.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], radio.state_dict()[name])


def test_sources(tmp_path: Path) -> None:
    tiny_radio().save_pretrained(tmp_path / "mine")
    assert load_eval_model(str(tmp_path / "mine")).name == "mine"
    blind = load_eval_model("random:tiny")
    assert blind.image_text is None
    assert blind.features is not None
    with pytest.raises(ValueError, match=r"unknown model 'toy-klip'; known: toy, toy-clip"):
        load_eval_model("toy-klip")
    with pytest.raises(ValueError, match="unknown preset 'enormous'"):
        load_eval_model("random:enormous")


@pytest.mark.parametrize(
    ("name", "extra", "module"),
    [
        ("toy-clip", "clip", "open_clip"),
        ("toy-dino", "hf", "transformers"),
        ("toy-sam", "sam", "segment_anything"),
    ],
)
def test_toy_teachers(name: str, extra: str, module: str) -> None:
    pytest.importorskip(module, reason=f"needs the extra {extra!r}")
    model = load_eval_model(name)
    assert (model.image_text is not None) == (name == "toy-clip")
    assert (model.sam is not None) == (name == "toy-sam")
    assert model.summary is not None
    with torch.no_grad():
        assert model.summary(torch.rand(1, 3, model.image_size, model.image_size)).ndim == 2
