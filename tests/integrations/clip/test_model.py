"""The bundled student in place of a CLIP: open_clip's own scripts, texts against patches."""

import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

pytest.importorskip("open_clip", reason="needs the extra 'clip'")

import open_clip
from open_clip.model import get_model_preprocess_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2

from radio_clip import RadioClip, RadioPreprocess, Tokenizer, load_radio_clip
from radio_core import load_model
from radio_core.data.toyworld import render_scene
from radio_core.data.toyworld.export import HELD_OUT_START
from radio_core.data.toyworld.scenes import CLASS_NAMES, TEMPLATES
from radio_core.models import AdaptorConfig, HeadConfig, RadioConfig, RadioModel, vit_config
from radio_core.models.adaptors import Adaptor
from radio_core.models.normalizers import FeatureNormalizer
from radio_core.open import open_model
from radio_core.teachers import load_teacher
from radio_eval.runner import run_task
from radio_eval.tasks.zero_shot import ZeroShot

Loaded = tuple[RadioClip, RadioPreprocess, Tokenizer]
SCENES = 60


class HeldOutScenes:
    """Images for the evaluator: scenes that no training saw."""

    def __init__(self) -> None:
        scenes = [render_scene(0, HELD_OUT_START + index) for index in range(SCENES)]
        self.images = [Image.fromarray(scene.image) for scene in scenes]
        self.labels = [scene.label for scene in scenes]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Image.Image:
        return self.images[index]


class WithPreprocess(Dataset[tuple[Tensor, int]]):
    """The same as torchvision's data sets give them."""

    def __init__(self, scenes: HeldOutScenes, preprocess: RadioPreprocess) -> None:
        self.scenes, self.preprocess = scenes, preprocess

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.preprocess(self.scenes.images[index]), self.scenes.labels[index]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load_radio_clip("toy")


@pytest.fixture(scope="module")
def scenes() -> HeldOutScenes:
    return HeldOutScenes()


def open_clip_predictions(
    loaded: Loaded, scenes: HeldOutScenes
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """open_clip's zero-shot evaluation (open_clip_train/zero_shot.py), as it stands."""
    model, preprocess, tokenizer = loaded
    model.eval()
    classifier = open_clip.build_zero_shot_classifier(
        model,
        tokenizer=tokenizer,
        classnames=CLASS_NAMES,
        templates=TEMPLATES,
        num_classes_per_batch=10,
        device="cpu",
    )
    with torch.inference_mode():
        for images, target in DataLoader(WithPreprocess(scenes, preprocess), batch_size=16):
            output = model(image=images)
            features = output["image_features"] if isinstance(output, dict) else output[0]
            logits = 100.0 * features @ classifier
            yield logits, logits.topk(5, 1, True, True)[1], target


def test_zero_shot_accuracy_is_that_of_the_evaluator(
    loaded: Loaded, scenes: HeldOutScenes, tmp_path: Path
) -> None:
    batches = open_clip_predictions(loaded, scenes)
    _, best, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
    right = best.eq(target[:, None])
    for index, (image, label) in enumerate(zip(scenes.images, scenes.labels, strict=True)):
        folder = tmp_path / "val" / f"{label:02}"
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{index}.png")
    names = {f"{label:02}": name for label, name in enumerate(CLASS_NAMES)}
    (tmp_path / "classnames.json").write_text(json.dumps(names))
    task = ZeroShot(data=tmp_path, templates=TEMPLATES, no_cache=True)
    wanted: Any = run_task(task, open_model("toy")).metrics
    assert 100 * right[:, 0].double().mean() == pytest.approx(wanted["top1"])
    assert 100 * right.any(dim=1).double().mean() == pytest.approx(wanted["top5"])
    assert wanted["top1"] > 10 * 100 / len(CLASS_NAMES)


def test_openais_templates_and_callables_work(loaded: Loaded) -> None:
    model, _, tokenizer = loaded
    names = ["red star", "blue circle"]
    templates = open_clip.OPENAI_IMAGENET_TEMPLATES
    classifier = open_clip.build_zero_shot_classifier(model, tokenizer, names, templates)
    legacy = open_clip.build_zero_shot_classifier_legacy(model, tokenizer, names, templates)
    assert classifier.shape == (model.visual.output_dim, 2)
    torch.testing.assert_close(classifier, legacy)
    torch.testing.assert_close(classifier.norm(dim=0), torch.ones(2))


def test_the_example_of_open_clips_readme(loaded: Loaded, scenes: HeldOutScenes) -> None:
    model, preprocess, tokenizer = loaded
    image = preprocess(scenes.images[0]).unsqueeze(0)
    text = tokenizer(["a red star", *(f"a {name}" for name in CLASS_NAMES)])
    with torch.no_grad(), torch.autocast("cpu"):
        image_features = model.encode_image(image)
        text_features = model.encode_text(text)
        image_features /= image_features.norm(dim=-1, keepdim=True)
        text_features /= text_features.norm(dim=-1, keepdim=True)
        probabilities = (100.0 * image_features @ text_features.T).softmax(dim=-1)
    assert probabilities.shape == (1, 1 + len(CLASS_NAMES))
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-2)


@torch.no_grad()
def test_what_forward_returns_is_open_clips(loaded: Loaded) -> None:
    model, _, tokenizer = loaded
    clip = open_clip.CLIP(**CLIP_SHAPE)
    images, tokens = torch.rand(2, 3, 96, 96), tokenizer(["a red star", "a ring"])
    for arguments in ({"image": images, "text": tokens}, {"image": images}, {"text": tokens}, {}):
        small = {**arguments, "image": images[..., :16, :16]} if "image" in arguments else arguments
        for as_dict in (False, True):
            model.output_dict = clip.output_dict = as_dict
            ours, theirs = model(**arguments), clip(**small)
            assert type(ours) is type(theirs)
            if as_dict:
                assert list(ours) == list(theirs)
                ours, theirs = ours.values(), theirs.values()
            assert [x is None for x in ours] == [x is None for x in theirs]
    model.output_dict = False
    image_features, text_features, scale = model(images, tokens)
    torch.testing.assert_close(image_features, model.encode_image(images, normalize=True))
    torch.testing.assert_close(text_features, F.normalize(model.encode_text(tokens)))
    image_logits, text_logits = model.get_logits(images, tokens)
    torch.testing.assert_close(image_logits, scale * image_features @ text_features.T)
    torch.testing.assert_close(text_logits, image_logits.T)


def test_both_sides_are_those_of_radio(loaded: Loaded) -> None:
    model, _, tokenizer = loaded
    radio = load_model("toy", adaptors="clip")
    images, texts = torch.rand(2, 3, 64, 96), ["a red star", "a photo of a blue ring"]
    summary = radio(images)["clip"].summary
    assert summary is not None
    torch.testing.assert_close(model.encode_image(images), summary)
    torch.testing.assert_close(
        model.encode_text(tokenizer(texts)), radio.encode_text("clip", texts)
    )
    assert model.logit_scale.shape == ()
    torch.testing.assert_close(model.logit_scale, load_teacher("toy-clip").model.logit_scale)
    assert model.logit_bias is None
    assert tokenizer(texts).dtype == torch.int64
    assert tokenizer(texts).shape == (2, model.context_length)
    assert (model.context_length, model.vocab_size) == (16, 34)


def test_modes_devices_and_dtypes_are_those_of_a_module(loaded: Loaded) -> None:
    model, _, tokenizer = loaded
    images, tokens = torch.rand(2, 3, 96, 96), tokenizer(["a red star"])
    assert not model.training
    training = copy.deepcopy(model).train()
    assert training.visual.training
    assert not any(module.training for module in training.text.tower.modules())
    training.encode_image(images).sum().backward()
    assert all(p.grad is None for p in training.text.parameters())
    assert any(p.grad is not None for p in training.visual.parameters())
    half = copy.deepcopy(model).half()
    with torch.no_grad():
        image_features, text_features, scale = half(images.half(), tokens)
        similarity = half.dense_similarity(images.half(), text_features)
        wanted = model(images, tokens)
    for value in (image_features, text_features, scale, similarity):
        assert value.dtype == torch.float16
    torch.testing.assert_close(image_features.float(), wanted[0], atol=2e-2, rtol=0)
    torch.testing.assert_close(text_features.float(), wanted[1], atol=2e-2, rtol=0)


def test_what_preprocess_makes(loaded: Loaded) -> None:
    model, preprocess, _ = loaded
    assert preprocess.image_size == model.visual.image_size == (96, 96)
    wide = Image.radial_gradient("L").resize((300, 200))
    tensor = preprocess(wide)
    assert (tensor.shape, tensor.dtype) == ((3, 96, 96), torch.float32)
    assert 0 <= float(tensor.min()) < float(tensor.max()) <= 1
    assert pickle.loads(pickle.dumps(preprocess)) == preprocess
    _, aspect, _ = load_radio_clip(model.radio, image_size=64, keep_aspect=True)
    assert aspect(wide).shape == (3, 64, 96)
    _, other, _ = load_radio_clip(model.radio, image_size=(64, 104))
    assert other(wide).shape == (3, 64, 104)


def test_open_clip_builds_the_same_preprocessing(loaded: Loaded) -> None:
    model, preprocess, _ = loaded
    theirs: Any = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    square = Image.fromarray(render_scene(0, 5).image)
    torch.testing.assert_close(theirs(square), preprocess(square))
    assert theirs(square.resize((300, 200))).shape == (3, 96, 96)
    assert get_model_preprocess_cfg(model) == model.visual.preprocess_cfg


CLIP_SHAPE: dict[str, Any] = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 34, "width": 8, "heads": 2, "layers": 1},
}


def with_adaptors(*names: str, tower: str | None = "toy-clip", width: int = 64) -> RadioModel:
    """A random RADIO model with these adaptors."""
    head = HeadConfig(out_dim=width, hidden_dim=8)
    adaptors = tuple(
        AdaptorConfig(name=name, features=head, summary=head, token_slot=0, text_tower=tower)
        for name in names
    )
    backbone = vit_config("tiny", embed_dim=16, depth=1)
    return RadioModel(RadioConfig(backbone=backbone, adaptors=adaptors))


def test_the_adaptor_must_be_clear() -> None:
    with pytest.raises(ValueError, match=r"several adaptors .*: one, other$"):
        load_radio_clip(with_adaptors("one", "other"))
    model, _, _ = load_radio_clip(with_adaptors("siglip", "clip"))
    assert model.visual.adaptor == "clip"
    model, _, _ = load_radio_clip(with_adaptors("clip", "siglip"), "siglip")
    assert model.visual.adaptor == "siglip"
    with pytest.raises(ValueError, match=r"no adaptor with a text tower; its adaptors: dino, e$"):
        load_radio_clip(with_adaptors("dino", "e", tower=None))
    with pytest.raises(ValueError, match="no adaptor with a text tower; its adaptors: none"):
        load_radio_clip(with_adaptors())
    with pytest.raises(ValueError, match=r"'dino_v2' has no text tower; those that do: clip"):
        load_radio_clip("toy", "dino_v2")
    with pytest.raises(ValueError, match=r"unknown adaptors \['nix'\]; this model has: clip"):
        load_radio_clip("toy", "nix")


def test_what_does_not_fit_is_refused(loaded: Loaded) -> None:
    model, _, _ = loaded
    with pytest.raises(ValueError, match=r"multiples of 8 pixels; nearest: \(104, 104\)"):
        load_radio_clip(model.radio, image_size=101)
    with pytest.raises(ValueError, match="all >= 1"):
        load_radio_clip(model.radio, image_size=0)
    with pytest.raises(ValueError, match="keep_aspect takes one side"):
        load_radio_clip(model.radio, image_size=(64, 96), keep_aspect=True)
    with pytest.raises(ValueError, match=r"width 64, but adaptor 'clip' gives 20"):
        load_radio_clip(with_adaptors("clip", width=20))
    external = copy.deepcopy(model.radio)
    external.make_preprocessor_external()
    with pytest.raises(ValueError, match="load it anew"):
        load_radio_clip(external)


NAMES = ["red star", "blue ring", "green circle"]


@pytest.fixture(scope="module")
def model(loaded: Loaded) -> RadioClip:
    return loaded[0]


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
    held_out = [render_scene(0, HELD_OUT_START + index) for index in range(20)]
    pixels = torch.from_numpy(np.stack([scene.image for scene in held_out]))
    small = F.interpolate(pixels.movedim(-1, 1).float() / 255, size=(96, 96), mode="area")
    classifier = open_clip.build_zero_shot_classifier(
        model, model.tokenizer, CLASS_NAMES, TEMPLATES
    )
    labels = model.segment(small, classifier.T, size=(128, 128))
    right = [
        (labels[n][torch.from_numpy(scene.objects[0].mask)] == scene.label).float().mean()
        for n, scene in enumerate(held_out)
    ]
    assert torch.stack(right).mean() > 5 / len(CLASS_NAMES)


def test_texts_and_sizes_that_do_not_fit_are_refused(model: RadioClip, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"text_features must be \[texts, 64\], not \(3, 5\)"):
        model.dense_similarity(images, torch.rand(3, 5))
    with pytest.raises(ValueError, match="list of one or more strings, not 'red star'"):
        model.segment(images, "red star")
    with pytest.raises(ValueError, match="list of one or more strings"):
        model.segment(images, [])
    with pytest.raises(ValueError, match="nearest"):
        model.encode_image_dense(images[..., :61])
