"""Texts against the patches of images."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("open_clip", reason="needs the extra 'clip'")

import open_clip

from radio_clip import RadioClip, load_radio_clip
from radio_core.data.toyworld import render_scene
from radio_core.data.toyworld.export import HELD_OUT_START
from radio_core.data.toyworld.scenes import CLASS_NAMES, TEMPLATES
from radio_core.models.adaptors import Adaptor
from radio_core.models.normalizers import FeatureNormalizer

NAMES = ["red star", "blue ring", "green circle"]


@pytest.fixture(scope="module")
def model() -> RadioClip:
    return load_radio_clip("toy")[0]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def text_features(model: RadioClip, names: list[str] = NAMES) -> Tensor:
    return model.encode_text(model.tokenizer(names))


@torch.no_grad()
def test_every_patch_goes_through_the_summary_head(model: RadioClip, images: Tensor) -> None:
    tokens = model.radio.forward_all(images)["backbone"].features.movedim(1, -1)
    head = model.radio.adaptors["clip"]
    assert isinstance(head, Adaptor)
    assert head.summary_head is not None
    wanted = head.summary_head(tokens)
    assert wanted.shape == (2, 64 // 8, 96 // 8, model.visual.output_dim)
    torch.testing.assert_close(model.encode_image_dense(images, normalize=False), wanted)
    torch.testing.assert_close(model.encode_image_dense(images), F.normalize(wanted, dim=-1))


@torch.no_grad()
def test_a_feature_normalizer_does_not_reach_the_summary_head(
    model: RadioClip, images: Tensor
) -> None:
    other = copy.deepcopy(model)
    other.radio.feature_normalizer = FeatureNormalizer(other.radio.embed_dim)
    nn.init.normal_(other.radio.feature_normalizer.tx)
    torch.testing.assert_close(other.encode_image_dense(images), model.encode_image_dense(images))


@torch.no_grad()
def test_similarity_is_the_cosine_with_every_text(model: RadioClip, images: Tensor) -> None:
    texts = text_features(model)
    similarity = model.dense_similarity(images, texts)
    dense = model.encode_image_dense(images)
    assert similarity.shape == (2, 3, 8, 12)
    for k, text in enumerate(texts):
        wanted = F.cosine_similarity(dense, text.expand_as(dense), dim=-1)
        torch.testing.assert_close(similarity[:, k], wanted)
    torch.testing.assert_close(model.dense_similarity(images, 7 * texts), similarity)
    classifier = open_clip.build_zero_shot_classifier(model, model.tokenizer, NAMES, ["{}"])
    torch.testing.assert_close(model.dense_similarity(images, classifier.T), similarity)


def test_segments_are_resized_to_the_image(
    model: RadioClip, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patches that hold the texts themselves come back as their map."""
    texts = text_features(model)
    truth = torch.zeros(8, 12, dtype=torch.long)
    truth[:, 6:], truth[4:, 6:] = 1, 2
    monkeypatch.setattr(model.visual, "dense", lambda images: texts[truth].expand(2, -1, -1, -1))
    labels = model.segment(images, NAMES)
    assert (labels.shape, labels.dtype) == ((2, 64, 96), torch.int64)
    assert labels[0, 4::8, 4::8].tolist() == truth.tolist()  # the middle of each patch
    assert model.segment(images, texts).equal(labels)
    large = model.segment(images, NAMES, size=(80, 121))
    assert large.shape == (2, 80, 121)
    assert [int(large[1, y, x]) for y, x in ((9, 9), (9, 110), (70, 110))] == [0, 1, 2]


@torch.no_grad()
def test_the_toys_patches_name_what_is_in_the_scene(model: RadioClip) -> None:
    """Far more often than chance: but they do so all over the image, not where the object is."""
    scenes = [render_scene(0, HELD_OUT_START + index) for index in range(20)]
    pixels = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    small = F.interpolate(pixels.movedim(-1, 1).float() / 255, size=(96, 96), mode="area")
    classifier = open_clip.build_zero_shot_classifier(
        model, model.tokenizer, CLASS_NAMES, TEMPLATES
    )
    labels = model.segment(small, classifier.T, size=(128, 128))
    right = [
        (labels[n][torch.from_numpy(scene.objects[0].mask)] == scene.label).float().mean()
        for n, scene in enumerate(scenes)
    ]
    assert torch.stack(right).mean() > 5 / len(CLASS_NAMES)


def test_what_does_not_fit_is_refused(model: RadioClip, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"text_features must be \[texts, 64\], not \(3, 5\)"):
        model.dense_similarity(images, torch.rand(3, 5))
    with pytest.raises(ValueError, match="list of one or more strings, not 'red star'"):
        model.segment(images, "red star")
    with pytest.raises(ValueError, match="list of one or more strings"):
        model.segment(images, [])
    with pytest.raises(ValueError, match="nearest"):
        model.encode_image_dense(images[..., :61])
