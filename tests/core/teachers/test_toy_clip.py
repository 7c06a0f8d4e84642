"""The open_clip adapter and its tokenizer of whole words."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from radio_core.data.toyworld import CLASS_NAMES, TEMPLATES
from radio_core.teachers import load_teacher
from radio_core.teachers.load import toy_teacher_folder
from radio_core.teachers.open_clip import OpenClipTeacher, WordTokenizer


@pytest.fixture
def teacher(tiny_teachers: dict[str, str]) -> OpenClipTeacher:
    loaded = load_teacher(tiny_teachers["clip"])
    assert isinstance(loaded, OpenClipTeacher)
    return loaded


def test_the_summary_is_the_image_embedding_before_normalisation(teacher: OpenClipTeacher) -> None:
    images = torch.rand(2, 3, 32, 32)
    normalised = (images - teacher.mean) / teacher.std
    with torch.no_grad():
        wanted = teacher.model.encode_image(normalised, normalize=False)
    summary = teacher(images).summary
    torch.testing.assert_close(summary, wanted)
    assert not torch.allclose(summary.norm(dim=1), torch.ones(2))


def test_features_are_the_last_patch_tokens_after_the_final_norm(teacher: OpenClipTeacher) -> None:
    images, caught = torch.rand(2, 3, 32, 32), []
    hook = teacher.model.visual.transformer.register_forward_hook(
        lambda module, inputs, output: caught.append(output)
    )
    with torch.no_grad():
        teacher.model.encode_image((images - teacher.mean) / teacher.std)
    hook.remove()
    patches = teacher.model.visual.ln_post(caught[0])[:, 1:]  # [B, 16, C] after the class token
    wanted = patches.transpose(1, 2).reshape(2, 16, 4, 4)
    torch.testing.assert_close(teacher(images).features, wanted)


def test_size_mean_and_std_come_from_the_files(teacher: OpenClipTeacher) -> None:
    spec = teacher.spec
    assert (spec.input_size, spec.patch_size, spec.feature_dim, spec.summary_dim) == (32, 8, 16, 12)
    assert (spec.mean, spec.std) == ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def test_the_weights_are_those_of_the_file(teacher: OpenClipTeacher, clip_folder: Path) -> None:
    stored = load_file(clip_folder / "open_clip_model.safetensors")
    loaded = teacher.model.state_dict()
    assert set(stored) == set(loaded)
    assert all(torch.equal(stored[name], loaded[name]) for name in stored)


def test_text_is_pooled_at_the_end_token(teacher: OpenClipTeacher) -> None:
    encoded = teacher.encode_text(["a red star", "A  RED, star!", "a blue star"])
    assert encoded.shape == (3, 12)
    assert encoded.dtype == torch.float32
    assert torch.equal(encoded[0], encoded[1])
    assert not torch.allclose(encoded[0], encoded[2])
    model, tokens = teacher.model, teacher.tokenizer(["a red star"])
    assert tokens.argmax(dim=1).item() == 4  # start, three words, end
    with torch.no_grad():
        hidden = model.token_embedding(tokens) + model.positional_embedding
        hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask))
        wanted = hidden[:, 4] @ model.text_projection
    torch.testing.assert_close(encoded[:1], wanted)
    unit = teacher.encode_text(["a red star"], normalize=True)
    torch.testing.assert_close(unit, F.normalize(encoded[:1], dim=-1))


def test_tokens_of_known_unknown_and_too_many_words() -> None:
    tokenizer = WordTokenizer(["red", "star"], 6)
    assert tokenizer.vocab_size == 6
    assert tokenizer(["Red-star", "red moon", ""]).tolist() == [
        [2, 3, 4, 5, 0, 0],
        [2, 3, 1, 5, 0, 0],
        [2, 5, 0, 0, 0, 0],
    ]
    assert tokenizer("red " * 9).tolist() == [[2, 3, 3, 3, 3, 5]]
    assert tokenizer("star", context_length=4).tolist() == [[2, 4, 5, 0]]
    assert tokenizer("red").dtype == torch.int64
    assert int(tokenizer("red star " * 20).max()) == tokenizer.vocab_size - 1


def test_the_vocabulary_survives_saving(tmp_path: Path) -> None:
    tokenizer = WordTokenizer(["red", "star"], 6)
    tokenizer.save(tmp_path)
    again = WordTokenizer.load(tmp_path)
    assert (again.words, again.context_length) == (tokenizer.words, 6)
    assert torch.equal(again(["a red star"]), tokenizer(["a red star"]))


def test_toy_clip_knows_every_word_of_classes_and_templates() -> None:
    tokenizer = WordTokenizer.load(toy_teacher_folder("toy-clip"))
    texts = [template.format(name) for template in TEMPLATES for name in CLASS_NAMES]
    tokens = tokenizer(texts)
    assert not (tokens == 1).any()
    assert len({tuple(row) for row in tokens.tolist()}) == len(texts)
