"""Zero-shot classification on data where the answer is known."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from radio_core.open import open_model
from radio_eval.cli.evaluate import evaluate as main
from radio_eval.runner import run_task
from radio_eval.tasks.zero_shot import ZeroShot, openai_templates


def write(root: Path, names: Mapping[str, str], *classes: str) -> Path:
    """A validation image a class, red, green, blue in turn; `names` are those of class folders."""
    for index, name in enumerate(classes):
        (root / "val" / name).mkdir(parents=True, exist_ok=True)
        colour = tuple(255 * (index == channel) for channel in range(3))
        Image.new("RGB", (16, 16), colour).save(root / "val" / name / f"{index}.png")
    (root / "classnames.json").write_text(json.dumps(names))
    return root


def test_accuracy_and_the_sentences_that_made_it(tmp_path: Path, mean_colour: Any) -> None:
    names = {"a": "red", "b": "green", "c": "blue"}
    data = write(tmp_path, names, "a", "b", "b")  # the blue image is called green
    (data / "templates.json").write_text('["a {} thing", "a photo of something {}"]')
    result = run_task(ZeroShot(data=data, no_cache=True), mean_colour())
    assert result.value == pytest.approx(200 / 3)
    assert result.metrics["top5"] == 100.0
    assert result.parameters["templates"] == ["a {} thing", "a photo of something {}"]
    other = ZeroShot(data=data, no_cache=True, templates=("{}",))
    assert run_task(other, mean_colour()).parameters["templates"] == ["{}"]


@pytest.mark.parametrize("template", ["no place", "{} and {}"])
def test_bad_templates_are_refused(template: str, tmp_path: Path, mean_colour: Any) -> None:
    task = ZeroShot(data=write(tmp_path, {"a": "b"}, "a"), templates=(template,), no_cache=True)
    with pytest.raises(ValueError, match="template"):
        run_task(task, mean_colour())


def test_class_names_with_braces_stay_as_they_are(tmp_path: Path, mean_colour: Any) -> None:
    data = write(tmp_path, {"a": "{0}", "b": "a{}", "c": "%s"}, "a", "b", "c")
    model = mean_colour()
    run_task(ZeroShot(data=data, templates=("x {}",), no_cache=True), model)
    assert model.asked == ["x {0}", "x a{}", "x %s"]


def test_default_templates_are_openais() -> None:
    pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    templates = openai_templates()
    assert len(templates) == 80
    assert templates[0] == "a bad photo of a {}."


def test_zero_shot_uses_the_cache_and_keeps_its_templates(
    toy_classes: Path, tmp_path: Path
) -> None:
    pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    command = ["zero-shot", "--model", "toy-clip", "--data", str(toy_classes), "--device", "cpu"]
    command += ["--cache", str(tmp_path / "cache"), "--json"]
    results = []
    for name in ("a.json", "b.json"):
        assert main([*command, str(tmp_path / name)]) == 0
        results.append(json.loads((tmp_path / name).read_text()))
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[0]["parameters"]["templates"]
    assert len(list((tmp_path / "cache").glob("*/*.safetensors"))) == 1


def test_clip_of_transformers_reads_sentences(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra 'hf'")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "projection_dim": 12}
    config = transformers.CLIPConfig(
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        text_config={**sizes, "vocab_size": 40, "max_position_embeddings": 8},
        projection_dim=12,
    )
    torch.manual_seed(0)
    network = transformers.CLIPModel(config).eval()
    network.save_pretrained(tmp_path / "net")
    words = {"a": 0, "red": 1, "cat": 2, "[UNK]": 3, "[PAD]": 4}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]")
    tokenizer.save_pretrained(tmp_path / "net")
    model: Any = open_model(f"hf:{tmp_path / 'net'}")
    tokens = tokenizer(["a red cat", "cat"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = network.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
    expected = expected if isinstance(expected, torch.Tensor) else expected.pooler_output
    torch.testing.assert_close(model.encode_text(["a red cat", "cat"]), expected)
    data = write(tmp_path / "data", {"a": "red", "b": "cat"}, "a", "b")
    result = run_task(ZeroShot(data=data, templates=("a {}",), no_cache=True), model)
    assert result.metrics["image_size"] == 32
