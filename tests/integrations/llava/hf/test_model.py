"""RADIO inside transformers' LlavaForConditionalGeneration."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("transformers", reason="needs the extra 'llava'")

import transformers

from radio_core.models import AdaptorConfig, HeadConfig, RadioConfig, RadioModel, vit_config
from radio_core.models.eradio import eradio_config
from radio_llava.features import TowerConfig, tower_features
from radio_llava.hf import (
    RadioLlavaProcessor,
    RadioVisionConfig,
    RadioVisionModel,
    build_llava,
    load_llava,
    register,
)
from radio_llava.hf.model import llava_config

TOWER = "model.vision_tower."
Build = Callable[..., tuple[Any, Any]]


def logits(model: Any, inputs: Any) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(**inputs).logits
    return result


def batch_of(processor: Any, images: list[Image.Image], texts: list[str]) -> Any:
    return processor(images=images, text=texts, return_tensors="pt", padding=True)


def test_mixed_sizes_in_a_batch_give_what_each_gives_alone(
    llava: Any, processor: Any, images: list[Image.Image], texts: list[str]
) -> None:
    batch = batch_of(processor, images, texts)
    together = logits(llava, batch)
    for row, (image, text) in enumerate(zip(images, texts, strict=True)):
        alone = logits(llava, processor(images=image, text=text, return_tensors="pt"))
        kept = together[row, batch["attention_mask"][row].bool()]
        torch.testing.assert_close(kept, alone[0], rtol=1e-4, atol=1e-4)
    other = batch_of(processor, [image.rotate(180) for image in images], texts)
    assert float((logits(llava, other) - together).abs().max()) > 1e-2


def test_several_images_in_a_text_and_texts_without_images(
    llava: Any, processor: Any, images: list[Image.Image]
) -> None:
    texts = ["<image> red <image> what", "what is this", "this <image>"]
    batch = batch_of(processor, images, texts)
    together = logits(llava, batch)
    for row, own in enumerate([images[:2], None, images[2:]]):
        alone = logits(llava, processor(images=own, text=texts[row], return_tensors="pt"))
        kept = together[row, batch["attention_mask"][row].bool()]
        torch.testing.assert_close(kept, alone[0], rtol=1e-4, atol=1e-4)


def test_the_tower_gives_the_features_of_the_model_in_place(
    radio: RadioModel, tower: TowerConfig
) -> None:
    model = RadioVisionModel.of(radio, tower)
    pixels = torch.rand(2, 3, 64, 40)
    with torch.no_grad():
        whole = model(pixels).last_hidden_state
        cut = model(pixels, image_sizes=torch.tensor([[64, 40], [24, 16]]))
        wanted = tower_features(radio, [pixels[0], pixels[1, :, :24, :16]], tower)
    assert whole.shape == (2, 40, radio.embed_dim)
    torch.testing.assert_close(cut.hidden_states[-1], torch.cat(wanted)[None])
    torch.testing.assert_close(cut.last_hidden_state[0, :40], whole[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changes", [{"layers": (-3, 1)}, {"adaptor": "dino_v2"}, {"normalize": "layer_norm"}]
)
def test_the_choice_of_features_survives_saving(
    changes: dict[str, Any],
    radio: RadioModel,
    build: Build,
    images: list[Image.Image],
    texts: list[str],
    tmp_path: Path,
) -> None:
    tower = TowerConfig(**({"model": "gone.pth.tar", "resolution": 64} | changes))
    model, processor = build(radio, tower)
    batch = batch_of(processor, images, texts)
    before = logits(model, batch)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, processor = load_llava(tmp_path)
    assert again.config.vision_config.parts()[1] == tower
    assert list(again.model.vision_tower.radio.adaptors) == [tower.adaptor] * bool(tower.adaptor)
    torch.testing.assert_close(logits(again, batch_of(processor, images, texts)), before)


def test_saved_and_loaded_through_the_auto_classes(
    llava: Any, processor: Any, images: list[Image.Image], texts: list[str], tmp_path: Path
) -> None:
    before = logits(llava, batch_of(processor, images, texts))
    llava.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    model = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path)
    loaded = transformers.AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, RadioLlavaProcessor)
    assert isinstance(model.model.vision_tower, RadioVisionModel)
    assert not model.training
    torch.testing.assert_close(logits(model, batch_of(loaded, images, texts)), before)


def test_a_model_built_from_a_config_alone_takes_any_weights(llava: Any, batch: Any) -> None:
    vision, text = llava.config.vision_config, llava.config.text_config
    fresh = transformers.LlavaForConditionalGeneration(
        llava_config(vision, text, llava.config.image_token_id)
    ).eval()
    assert logits(fresh, batch).isfinite().all()
    fresh.load_state_dict(llava.state_dict())
    torch.testing.assert_close(logits(fresh, batch), logits(llava, batch))


def test_the_tower_alone_is_an_auto_model(
    radio: RadioModel, tower: TowerConfig, tmp_path: Path
) -> None:
    register()
    RadioVisionModel.of(radio, tower).save_pretrained(tmp_path)
    loaded = transformers.AutoModel.from_pretrained(tmp_path)
    pixels = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        wanted = radio(pixels).features
        torch.testing.assert_close(loaded(pixels).last_hidden_state, wanted)


@pytest.mark.parametrize("frozen", [True, False])
def test_training_lowers_the_loss_and_changes_what_it_should(
    frozen: bool, llava: Any, batch: Any
) -> None:
    llava.model.vision_tower.requires_grad_(not frozen)
    llava.train()
    assert not llava.model.vision_tower.radio.training
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    before = {name: value.clone() for name, value in llava.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in llava.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(3):
        loss = llava(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    changed = {n for n, value in llava.state_dict().items() if not torch.equal(value, before[n])}
    assert any("multi_modal_projector" in name for name in changed)
    assert any("language_model" in name for name in changed)
    assert any(name.startswith(TOWER) for name in changed) != frozen
    if not frozen:
        assert f"{TOWER}radio.backbone.blocks.0.attn.qkv.weight" in changed


@pytest.mark.parametrize("student", ["toy", "e-radio"])
def test_a_trained_tower_is_saved_and_loaded_exactly(
    student: str,
    radio: RadioModel,
    build: Build,
    images: list[Image.Image],
    texts: list[str],
    tmp_path: Path,
) -> None:
    torch.manual_seed(2)
    e_radio = RadioConfig(backbone=eradio_config("eradio_xxxtiny", dim=16))
    own = radio if student == "toy" else RadioModel(e_radio).eval()
    tower = TowerConfig(model=student, resolution=64)
    model, processor = build(own, tower)
    batch = batch_of(processor, images, texts)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    optimizer.step()
    vision = model.model.vision_tower
    assert all(p.grad is not None for p in vision.parameters() if p.requires_grad)
    model.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, _ = load_llava(tmp_path)
    found = again.model.vision_tower
    tensors = dict(found.named_parameters()) | dict(found.named_buffers())
    expected = dict(vision.named_parameters()) | dict(vision.named_buffers())
    assert [n for n, x in expected.items() if not torch.equal(x, tensors[n])] == []
    before = own.state_dict()["backbone." + next(iter(own.backbone.state_dict()))]
    assert not torch.equal(before, next(iter(found.radio.backbone.state_dict().values())))
    assert torch.equal(logits(again, batch), logits(model, batch))


def test_what_the_features_do_not_depend_on_is_frozen(
    radio: RadioModel, make_llama: Callable[..., Any], tokenizer: Any
) -> None:
    tower = TowerConfig(model="toy", resolution=64, adaptor="clip")
    vision = build_llava(radio, tower, make_llama(), tokenizer).model.vision_tower
    frozen = {name for name, p in vision.named_parameters() if not p.requires_grad}
    assert any("summary_head" in name for name in frozen)
    assert not any("backbone" in name or "feature_head" in name for name in frozen)


def test_a_language_model_with_sampling_settings_is_saved(
    radio: RadioModel,
    tower: TowerConfig,
    make_llama: Callable[..., Any],
    tokenizer: Any,
    tmp_path: Path,
) -> None:
    llama = make_llama()
    llama.generation_config.temperature = 0.9  # as Vicuna's
    build_llava(radio, tower, llama, tokenizer).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()


def test_a_frozen_tower_keeps_no_graph(llava: Any, processor: Any, images: list[Any]) -> None:
    llava.model.vision_tower.requires_grad_(False)
    llava.train()
    pixels = processor.image_processor(images)
    output = llava.model.vision_tower(**pixels)
    assert not output.last_hidden_state.requires_grad
    llava.gradient_checkpointing_enable()
    llava.enable_input_require_grads()
    assert not llava.model.vision_tower(**pixels).last_hidden_state.requires_grad


def test_generation_is_the_same_in_a_batch(
    llava: Any, processor: Any, images: list[Image.Image], texts: list[str]
) -> None:
    processor.tokenizer.padding_side = "left"
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    batch = batch_of(processor, images, texts)
    together = llava.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]
    for row, (image, text) in enumerate(zip(images, texts, strict=True)):
        alone = llava.generate(**processor(images=image, text=text, return_tensors="pt"), **options)
        assert alone[0, -4:].tolist() == together[row].tolist()
    assert not (together == llava.config.image_token_id).any()


def test_a_batch_generates_with_several_images_and_with_none(
    llava: Any, processor: Any, images: list[Image.Image]
) -> None:
    processor.tokenizer.padding_side = "left"
    texts = ["<image> red <image> what", "what is this", "this <image>"]
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    batch = batch_of(processor, images, texts)
    together = llava.generate(**batch, **options)[:, -4:]
    for row, own in enumerate([images[:2], None, images[2:]]):
        inputs = processor(images=own, text=texts[row], return_tensors="pt")
        assert llava.generate(**inputs, **options)[0, -4:].tolist() == together[row].tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close_and_normalises_in_float32(
    dtype: torch.dtype, llava: Any, tmp_path: Path, batch: Any
) -> None:
    exact = logits(llava, batch)
    llava.save_pretrained(tmp_path)
    loaded = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)
    conditioner = loaded.model.vision_tower.radio.conditioner
    assert torch.equal(conditioner.norm_mean, llava.model.vision_tower.radio.conditioner.norm_mean)
    for model in (loaded, llava.to(dtype)):
        assert model.model.vision_tower.dtype == dtype
        coarse = logits(model, batch).float()
        assert float((coarse - exact).norm() / exact.norm()) < 0.05


def test_a_new_image_token_is_never_the_likeliest(
    llava: Any, processor: Any, images: list[Image.Image], texts: list[str]
) -> None:
    scores = logits(llava, batch_of(processor, images, texts))
    assert llava.config.image_token_id == scores.shape[-1] - 1
    assert not (scores.argmax(dim=-1) == llava.config.image_token_id).any()


def test_other_students_work(build: Build, images: list[Image.Image], texts: list[str]) -> None:
    torch.manual_seed(2)
    vit: Any = vit_config("tiny", patch_size=16, embed_dim=32, depth=2, stem="patch")
    head = HeadConfig(out_dim=24, hidden_dim=16)
    upsampling = AdaptorConfig(name="sam", features=head, upsample=2)
    students = [
        (RadioConfig(backbone=eradio_config("eradio_xxxtiny", dim=16)), ""),
        (RadioConfig(backbone=vit, adaptors=(upsampling,)), "sam"),
    ]
    for config, adaptor in students:
        student = RadioModel(config).eval()
        tower = TowerConfig(model="student", resolution=64, adaptor=adaptor)
        model, processor = build(student, tower)
        assert logits(model, batch_of(processor, images, texts)).isfinite().all()


def test_wrong_use_says_what_to_do(radio: RadioModel, tower: TowerConfig, llava: Any) -> None:
    vision = llava.model.vision_tower
    with pytest.raises(ValueError, match=r"vision_feature_layer=-1.*TowerConfig\(layers"):
        vision(torch.rand(1, 3, 64, 64), output_hidden_states=-2)
    with pytest.raises(ValueError, match="2 images, but 1 image_sizes"):
        vision(torch.rand(2, 3, 64, 64), image_sizes=[[64, 64]])
    with pytest.raises(ValueError, match="within the images of 64x64"):
        vision(torch.rand(1, 3, 64, 64), image_sizes=[[64, 72]])
    with pytest.raises(ValueError, match=r"RadioVisionConfig\.of"):
        RadioVisionModel(RadioVisionConfig())
    wrong = RadioVisionConfig.of(radio, tower)
    wrong.hidden_size = 7
    with pytest.raises(ValueError, match=r"is 7, but the features .* have width 128"):
        RadioVisionModel(wrong)
    with pytest.raises(ValueError, match="this model has: clip, dino_v2, sam"):
        RadioVisionConfig.of(radio, TowerConfig(model="toy", adaptor="siglip"))
