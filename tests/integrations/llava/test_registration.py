import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("llava", reason="needs llava-torch, see the extra 'llava'")
pytest.importorskip("peft", reason="needs the extra 'llava'")

from radio_core import load_model
from radio_llava.registration import IMAGE_TOKEN_INDEX, TruncationWarning, register
from radio_llava.tower import VisionTower, is_radio_tower

IMG = IMAGE_TOKEN_INDEX


@pytest.fixture(scope="module")
def llava(tiny_llama: Path) -> Any:
    """A LLaVA of random projector, with the tower toy."""
    register()
    from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM

    config = LlavaConfig.from_pretrained(tiny_llama)
    recorded = {"model": "toy", "resolution": 64}
    values: dict[str, Any] = {"mm_vision_tower": "toy", "mm_hidden_size": 128}
    values |= {"mm_projector_type": "mlp2x_gelu", "tokenizer_padding_side": "right"}
    config.update(values | {"radio_tower": recorded, "tokenizer_model_max_length": 200})
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = LlavaLlamaForCausalLM(config)
    model.get_vision_tower().load_model()
    return model.eval()


def logits(model: Any, ids: list[list[int]], images: Any) -> list[Tensor]:
    """The logits [L_i, V] of every sample, without its padding."""
    longest = max(map(len, ids))
    padded = torch.tensor([x + [0] * (longest - len(x)) for x in ids])
    mask = torch.tensor([[1] * len(x) + [0] * (longest - len(x)) for x in ids])
    with torch.no_grad():
        prepared = model.prepare_inputs_labels_for_multimodal(
            padded, None, mask, None, None, images
        )
        out = model(inputs_embeds=prepared[4], attention_mask=prepared[2])
    return [x[: int(m.sum())] for x, m in zip(out.logits, prepared[2], strict=True)]


def test_a_batch_of_mixed_sizes_equals_one_image_at_a_time(
    llava: Any, images: list[Tensor]
) -> None:
    ids = [[1, 5, IMG, 7, 9], [1, IMG, 8], [1, IMG, 6, 6, 6, 6]]
    together = logits(llava, ids, images)
    assert [len(x) for x in together] == [4 + 40, 2 + 24, 5 + 64]
    for sample, image, found in zip(ids, images, together, strict=True):
        alone = logits(llava, [sample], image[None])[0]
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-4)


def test_texts_without_an_image_stand_beside_texts_with_several(
    llava: Any, images: list[Tensor]
) -> None:
    ids = [[1, IMG, 5, IMG, 7], [1, 8, 9], [1, IMG, 6]]
    together = logits(llava, ids, images)
    assert [len(x) for x in together] == [3 + 40 + 24, 3, 2 + 64]
    with_empty_image = logits(llava, ids, [*images[:2], torch.zeros(3, 8, 8), images[2]])
    text = llava(torch.tensor([ids[1]])).logits[0]
    several = logits(llava, ids[:1], images[:2])[0]
    for found in (together, with_empty_image):
        torch.testing.assert_close(found[1], text, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found[0], several, atol=1e-5, rtol=1e-4)


def test_images_go_where_their_tokens_are(llava: Any, images: list[Tensor]) -> None:
    forward = logits(llava, [[1, IMG, 5, IMG, 7]], images[:2])[0]
    swapped = logits(llava, [[1, IMG, 5, IMG, 7]], images[1::-1])[0]
    assert len(forward) == len(swapped)
    assert not torch.allclose(forward, swapped, atol=1e-3)


@pytest.mark.parametrize(
    ("ids", "count", "message"),
    [
        ([[1, IMG, 5]], 2, r"2 image\(s\) were given for 1 <image>"),
        ([[1, IMG, IMG]], 1, r"1 image\(s\) were given for 2 <image>"),
        ([[1, 5, 6]], 1, "has an image, but no <image>"),
        ([[1, IMG, 5]], 0, r"0 image\(s\) were given for 1"),
    ],
)
def test_images_and_their_tokens_must_match(
    llava: Any, images: list[Tensor], ids: list[list[int]], count: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        logits(llava, ids, images[:count])


def test_a_prompt_with_an_image_token_needs_an_image(llava: Any) -> None:
    prompt = torch.tensor([[1, IMG, 5]])
    with pytest.raises(ValueError, match="no image was given"):
        llava.generate(prompt, max_new_tokens=2)
    with pytest.raises(ValueError, match="no image was given"):
        llava(prompt)


def test_generation_takes_images_of_mixed_sizes_and_text_alone(
    llava: Any, images: list[Tensor]
) -> None:
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 3, "eos_token_id": None}
    two = torch.tensor([[1, IMG, 5, IMG, 7]])
    answer = llava.generate(two, images=images[:2], **options)
    assert answer.shape == (1, 3)
    follow = logits(llava, [[1, IMG, 5, IMG, 7, *answer[0, :2].tolist()]], images[:2])[0]
    assert follow[-3:].argmax(dim=-1).tolist() == answer[0].tolist()
    assert llava.generate(torch.tensor([[1, 5, 7]]), **options).shape[1] in (3, 6)


def test_a_batch_generates_what_each_prompt_gets_alone(llava: Any, images: list[Tensor]) -> None:
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 3, "eos_token_id": None}
    equally_long = [[1, IMG, 5, 7], [1, 8, IMG, 9], [1, IMG, 6, 6]]
    together = llava.generate(torch.tensor(equally_long), images=images, **options)
    for ids, image, found in zip(equally_long, images, together, strict=True):
        alone = llava.generate(torch.tensor([ids]), images=image[None], **options)
        assert alone[0].tolist() == found.tolist()
    assert llava.config.tokenizer_padding_side == "right"


def test_a_batch_generates_with_several_images_and_with_none(
    llava: Any, images: list[Tensor]
) -> None:
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 3, "eos_token_id": None}
    ids = torch.tensor([[1, IMG, 5, IMG, 7], [0, 0, 1, 8, 9], [0, 0, 1, IMG, 6]])
    mask = ids != 0
    together = llava.generate(ids, images=images, attention_mask=mask, **options)
    for row, own in enumerate([images[:2], None, images[2:]]):
        alone = llava.generate(ids[row][mask[row]][None], images=own, **options)
        assert alone[0].tolist() == together[row].tolist()


def test_a_language_model_with_sampling_settings_is_saved(llava: Any, tmp_path: Path) -> None:
    llava.generation_config.temperature = 0.9  # as Vicuna's
    llava.generation_config.top_p = 0.6
    llava.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()


def test_a_tower_that_a_sharded_training_would_lose_is_refused(llava: Any) -> None:
    args = SimpleNamespace(
        vision_tower="toy", unfreeze_mm_vision_tower=True, tune_mm_mlp_adapter=False
    )
    with pytest.raises(ValueError, match="--fsdp would neither train nor save"):
        llava.get_model().initialize_vision_modules(args, fsdp=True)


def test_truncation_is_counted_and_told(llava: Any, images: list[Tensor]) -> None:
    long = [1, IMG, *[5] * 150]
    with pytest.warns(TruncationWarning, match=r"1 sequence\(s\) .* after 200 tokens, and lost 15"):
        found = logits(llava, [long, [1, IMG, 5]], [images[2], images[1]])
    assert len(found[0]) == 200
    before = llava.radio_truncation.tokens
    with warnings.catch_warnings():
        warnings.simplefilter("error", TruncationWarning)
        logits(llava, [[1, IMG, *[5] * 135]], images[2][None])
    assert llava.radio_truncation.tokens == before == 15


def test_tiles_of_one_image_go_llavas_own_way(llava: Any, images: list[Tensor]) -> None:
    tiles = torch.stack([images[2]] * 2)
    assert len(logits(llava, [[1, IMG, 5]], [tiles])[0]) == 2 + 2 * 64


def test_gradients_reach_an_unfrozen_tower_through_the_language_model(
    llava: Any, images: list[Tensor]
) -> None:
    tower = llava.get_vision_tower()
    tower.requires_grad_(True)
    try:
        ids = torch.tensor([[1, IMG, 5, 7], [1, IMG, 8, 9]])
        llava(ids, labels=ids.clamp_min(0), images=images[:2]).loss.backward()
        grads = [p.grad for p in tower.radio.backbone.parameters()]
        assert all(g is not None and bool(g.any()) for g in grads[-4:])
    finally:
        tower.requires_grad_(False)
        llava.zero_grad(set_to_none=True)


def test_registering_again_changes_nothing(llava: Any) -> None:
    from llava.model import llava_arch
    from llava.model.multimodal_encoder import builder

    names = ("encode_images", "prepare_inputs_labels_for_multimodal")
    before = [getattr(llava_arch.LlavaMetaForCausalLM, name) for name in names]
    before += [llava_arch.build_vision_tower, builder.build_vision_tower]
    register()
    after = [getattr(llava_arch.LlavaMetaForCausalLM, name) for name in names]
    after += [llava_arch.build_vision_tower, builder.build_vision_tower]
    assert before == after


@pytest.mark.parametrize("name", ["toy", "radio_h", "c-radio_v3-b", "e-radio_v2", "nvidia/RADIO"])
def test_radios_names_are_known(name: str) -> None:
    assert is_radio_tower(name)


def test_a_directory_counts_by_what_is_in_it(tmp_path: Path) -> None:
    load_model("toy").save_pretrained(tmp_path / "mine")
    assert is_radio_tower(str(tmp_path / "mine"))
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text(json.dumps({"model_type": "clip"}))
    assert not is_radio_tower(str(tmp_path / "clip"))
    assert not is_radio_tower("openai/clip-vit-large-patch14-336")


def test_both_places_of_llava_build_radio_towers() -> None:
    register()
    from llava.model import llava_arch
    from llava.model.multimodal_encoder import builder

    for build in (llava_arch.build_vision_tower, builder.build_vision_tower):
        tower = build(SimpleNamespace(mm_vision_tower="toy"), delay_load=True)
        assert isinstance(tower, VisionTower)
        with pytest.raises(ValueError, match=r"unknown model 'radio_xl'.*known: toy"):
            build(SimpleNamespace(vision_tower="radio_xl"))


def test_other_towers_are_built_as_before(tmp_path: Path) -> None:
    register()
    from llava.model.multimodal_encoder import builder
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    config = CLIPVisionConfig(**sizes, num_attention_heads=2, image_size=32, patch_size=8)
    CLIPVisionModel(config).save_pretrained(tmp_path / "clip")
    CLIPImageProcessor(size={"shortest_edge": 32}).save_pretrained(tmp_path / "clip")
    args = SimpleNamespace(mm_vision_tower=str(tmp_path / "clip"), mm_vision_select_layer=-2)
    tower = builder.build_vision_tower(args)
    assert type(tower).__name__ == "CLIPVisionTower"
    assert tower(torch.rand(1, 3, 32, 32)).shape == (1, 16, 16)
