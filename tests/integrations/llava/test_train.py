import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("llava", reason="needs llava-torch, see the extra 'llava'")
pytest.importorskip("peft", reason="needs the extra 'llava'")

from transformers import LlamaForCausalLM

from radio_core import load_model
from radio_core.config_file import to_mapping
from radio_core.teachers import TOY_TEACHERS, load_teacher
from radio_llava import train
from radio_llava.answering import Query, load_answerer
from radio_llava.features import TowerConfig
from radio_llava.images import RadioImageProcessor
from radio_llava.registration import TruncationWarning, register
from radio_llava.tower import VisionTower

pytestmark = pytest.mark.slow

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def stage_1(run: Run) -> Path:
    return run("llava-toy-pretrain", version="plain", tune_mm_mlp_adapter=True)


@pytest.fixture(scope="module")
def stage_2(run: Run, stage_1: Path) -> Path:
    return run("llava-toy", pretrain_mm_mlp_adapter=stage_1 / "mm_projector.bin")


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def weights(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def fell(values: list[float], to: float) -> bool:
    assert len(values) == 20
    assert all(map(math.isfinite, values))
    return sum(values[-4:]) < to * sum(values[:4])


def load(folder: Path, base: Path | None = None) -> Any:
    """LLaVA's own loading: (tokenizer, model, image processor, context length)."""
    from llava.mm_utils import get_model_name_from_path
    from llava.model.builder import load_pretrained_model

    register()
    name = get_model_name_from_path(str(folder))
    base_path = None if base is None else str(base)
    return load_pretrained_model(str(folder), base_path, name, device="cpu")


def answer(model: Any, tokenizer: Any, processor: Any, colour: str) -> str:
    """What the model says of a picture of one colour."""
    from llava.mm_utils import process_images, tokenizer_image_token

    picture = Image.new("RGB", (90, 50), colour)
    images = process_images([picture], processor, model.config)
    prompt = "USER: <image>\nWhat colour is the object? ASSISTANT:"
    ids = tokenizer_image_token(prompt, tokenizer, return_tensors="pt")[None]
    done = model.generate(ids, images=images.half(), do_sample=False, max_new_tokens=4)
    text: str = tokenizer.batch_decode(done, skip_special_tokens=True)[0]
    return text


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """LLaVA's `model_vqa_loader`, which knows CUDA alone, on the CPU."""
    pytest.importorskip("shortuuid", reason="needs the extra 'llava'")
    from llava.eval import model_vqa_loader as loader

    to, load_model = Tensor.to, loader.load_pretrained_model

    def to_cpu(self: Tensor, *args: Any, **options: Any) -> Tensor:
        if options.get("device") == "cuda":
            options["device"] = "cpu"
        return to(self, *args, **options)

    monkeypatch.setattr(Tensor, "to", to_cpu)
    monkeypatch.setattr(loader, "load_pretrained_model", partial(load_model, device="cpu"))
    monkeypatch.setattr(loader, "disable_torch_init", lambda: None)
    return loader


def ask(
    loader: Any, model: Path, questions: list[dict[str, Any]], images: Path, folder: Path
) -> list[dict[str, Any]]:
    """The answers that LLaVA's `model_vqa_loader` writes."""
    register()
    file, answers = folder / "questions.jsonl", folder / "answers.jsonl"
    file.write_text("".join(json.dumps(question) + "\n" for question in questions))
    loader.args = SimpleNamespace(
        model_path=str(model),
        model_base=None,
        image_folder=str(images),
        question_file=str(file),
        answers_file=str(answers),
        conv_mode="vicuna_v1",
        num_chunks=1,
        chunk_idx=0,
        temperature=0,
        top_p=None,
        num_beams=1,
        max_new_tokens=4,
    )
    loader.eval_model(loader.args)
    return [json.loads(line) for line in answers.read_text().splitlines()]


def test_stage_1_trains_the_projector_alone(stage_1: Path) -> None:
    assert fell(losses(stage_1), to=0.97)  # a random language model stays as it is
    saved = torch.load(stage_1 / "mm_projector.bin", weights_only=True)
    assert {name.partition("mm_projector.")[2] for name in saved} == {
        f"{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }
    config = json.loads((stage_1 / "config.json").read_text())
    assert config["mm_vision_tower"] == "toy"
    assert config["radio_tower"]["resolution"] == 64
    assert config["mm_hidden_size"] == 128


def test_stage_2_trains_the_language_model_and_the_projector(
    stage_1: Path, stage_2: Path, tiny_llama: Path
) -> None:
    assert fell(losses(stage_2), to=0.6)
    before = LlamaForCausalLM.from_pretrained(tiny_llama).state_dict()
    after = weights(stage_2)
    assert [n for n, x in before.items() if torch.equal(x, after[n])] == []
    projector = torch.load(stage_1 / "mm_projector.bin", weights_only=True)
    assert [n for n, x in projector.items() if torch.equal(x, after[n])] == []
    tower = VisionTower("toy", SimpleNamespace()).half().state_dict()
    unchanged = {n: after[f"model.vision_tower.{n}"] for n in tower}
    assert [n for n, x in tower.items() if not torch.equal(x.float(), unchanged[n].float())] == []


def test_a_saved_model_is_loaded_as_it_was_trained(stage_2: Path) -> None:
    _, model, processor, _ = load(stage_2)
    assert isinstance(processor, RadioImageProcessor)
    assert processor.resolution == 64
    after = weights(stage_2)
    state = model.state_dict()
    language = [name for name in after if "vision_tower" not in name]
    assert [n for n in language if not torch.equal(after[n].half(), state[n])] == []


def test_a_projector_alone_is_loaded_onto_its_language_model(
    stage_1: Path, tiny_llama: Path
) -> None:
    _, model, _, _ = load(stage_1, tiny_llama)
    saved = torch.load(stage_1 / "mm_projector.bin", weights_only=True)
    state = model.state_dict()
    assert [n for n, x in saved.items() if not torch.equal(x.half(), state[n])] == []
    assert model.get_vision_tower().is_loaded


def test_lora_weights_are_merged_into_the_language_model(run: Run, tiny_llama: Path) -> None:
    folder = run("llava-toy-lora", lora_enable=True, lora_r=4, lora_alpha=8, max_steps=4)
    assert not (folder / "model.safetensors").exists()
    tokenizer, model, processor, _ = load(folder, tiny_llama)
    before = LlamaForCausalLM.from_pretrained(tiny_llama).half().state_dict()
    state = model.state_dict()
    changed = {name for name, x in before.items() if not torch.equal(x, state[name])}
    assert changed == {name for name in before if "proj" in name}
    trained = torch.load(folder / "non_lora_trainables.bin", weights_only=True)
    name = next(name for name in trained if name.endswith("mm_projector.0.weight"))
    assert torch.equal(trained[name].half(), state["model.mm_projector.0.weight"])
    answer(model, tokenizer, processor, "red")


def test_the_saved_model_answers_through_llavas_own_loader(
    stage_2: Path, toy_conversations: Path, tmp_path: Path, on_cpu: Any
) -> None:
    samples = json.loads((toy_conversations / "train.json").read_text())
    text = "What colour is the object?"
    questions = [
        {"question_id": int(x["id"]), "image": x["image"], "text": text} for x in samples[:5]
    ]
    answers = ask(on_cpu, stage_2, questions, toy_conversations, tmp_path)
    assert [x["question_id"] for x in answers] == [0, 1, 2, 3, 4]
    assert all(isinstance(x["text"], str) for x in answers)


def test_both_stages_run_on_photos_with_their_questions(
    shared: Path, run: Run, tmp_path: Path, on_cpu: Any
) -> None:
    data = shared / "data"
    lines = (data / "vqa" / "vqav2_llava.jsonl").read_text().splitlines()
    questions = [json.loads(line) for line in lines][:16]
    annotations = json.loads((data / "vqa" / "vqav2_annotations.json").read_text())["annotations"]
    said = {x["question_id"]: x["multiple_choice_answer"] for x in annotations}
    samples = [
        {
            "id": str(x["question_id"]),
            "image": x["image"],
            "conversations": [
                {"from": "human", "value": f"<image>\n{x['text']}"},
                {"from": "gpt", "value": said[x["question_id"]]},
            ],
        }
        for x in questions
    ]
    file = tmp_path / "train.json"
    file.write_text(json.dumps(samples))
    photos: dict[str, Any] = {"data_path": file, "image_folder": data / "coco"}
    photos |= {"radio_resolution": 96, "group_by_modality_length": True}
    first = run("llava-coco-pretrain", version="plain", tune_mm_mlp_adapter=True, **photos)
    projector = first / "mm_projector.bin"
    second = run("llava-coco", pretrain_mm_mlp_adapter=projector, **photos)
    assert fell(losses(first), to=0.99)
    assert fell(losses(second), to=0.75)
    answers = ask(on_cpu, second, questions[:4], data / "coco", tmp_path)
    assert [x["question_id"] for x in answers] == [x["question_id"] for x in questions[:4]]


def test_a_tower_that_is_unfrozen_is_trained_saved_and_loaded(run: Run) -> None:
    choices: dict[str, Any] = {"unfreeze_mm_vision_tower": True, "max_steps": 2, "bf16": True}
    choices |= {"radio_layers": [1, -1], "radio_normalize": "layer_norm"}
    folder = run("llava-toy-unfrozen", **choices)
    after = weights(folder)
    fresh = VisionTower("toy", SimpleNamespace()).bfloat16().radio.backbone
    name = "model.vision_tower.radio.backbone."
    changed = [
        n
        for n, x in fresh.named_parameters()
        if not torch.equal(x.float(), after[name + n].float())
    ]
    assert "blocks.0" in " ".join(changed)
    tokenizer, model, processor, _ = load(folder)
    tower = model.get_vision_tower()
    assert (tower.tower_config.layers, tower.tower_config.normalize) == ((1, -1), "layer_norm")
    loaded = dict(tower.radio.backbone.named_parameters())
    assert [n for n in changed if not torch.equal(loaded[n].half(), after[name + n].half())] == []
    kept = dict(load_model("toy").named_buffers())
    found = dict(tower.radio.named_buffers())
    assert [n for n, x in kept.items() if not torch.allclose(x.to(found[n].dtype), found[n])] == []
    answer(model, tokenizer, processor, "red")


def test_training_goes_on_from_a_saved_model_with_its_tower(run: Run, stage_2: Path) -> None:
    choices = {"model_name_or_path": stage_2, "max_steps": 1, "radio_resolution": None}
    folder = run("llava-toy-further", **choices)
    recorded = json.loads((folder / "config.json").read_text())
    assert recorded["radio_tower"] == to_mapping(TowerConfig(model="toy", resolution=64))
    with pytest.raises(ValueError, match=r"projector takes features of width 128.* 256"):
        run("llava-toy-wider", **choices | {"radio_layers": [0, 1]})
    changed = run("llava-toy-larger", **choices | {"radio_resolution": 96})
    recorded = json.loads((changed / "config.json").read_text())
    assert recorded["radio_tower"]["resolution"] == 96


def test_a_trained_tower_is_kept_when_training_goes_on_without_it(run: Run) -> None:
    first = run("llava-toy-tower", unfreeze_mm_vision_tower=True, max_steps=2)
    second = run("llava-toy-after", model_name_or_path=first, max_steps=1, radio_resolution=96)
    before, after = weights(first), weights(second)
    tower = [name for name in before if ".radio." in name]
    assert [n for n in tower if not torch.allclose(before[n].half(), after[n].half())] == []
    name = "backbone.blocks.0.mlp.fc1.weight"
    released = load_model("toy").state_dict()[name]
    assert not torch.equal(released.half(), after[f"model.vision_tower.radio.{name}"].half())
    assert load(second)[1].get_vision_tower().tower_config.resolution == 96


def test_the_projector_alone_and_the_tower_are_not_trained_together(run: Run) -> None:
    choices = {"tune_mm_mlp_adapter": True, "unfreeze_mm_vision_tower": True}
    with pytest.raises(ValueError, match="leave --unfreeze_mm_vision_tower out"):
        run("llava-toy-both", **choices)


def test_samples_that_cannot_be_used_stop_before_training(
    run: Run, toy_conversations: Path, tmp_path: Path
) -> None:
    samples = json.loads((toy_conversations / "train.json").read_text())
    samples[3]["image"] = "gone.png"
    (tmp_path / "train.json").write_text(json.dumps(samples))
    with pytest.raises(
        ValueError, match=r"1 of 12 samples.*\s+sample 3: no image file .*gone\.png"
    ):
        run("llava-toy-gone", data_path=tmp_path / "train.json")


def test_a_long_sequence_is_told_of(run: Run) -> None:
    with pytest.warns(TruncationWarning, match="raise --model_max_length"):
        run("llava-toy-short", model_max_length=80, max_steps=1)


def test_checkpoints_are_written_and_training_resumes_from_them(run: Run) -> None:
    choices: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    projector = run("llava-toy-steps-1", version="plain", tune_mm_mlp_adapter=True, **choices)
    assert (projector / "checkpoint-1" / "mm_projector.bin").is_file()
    folder = run("llava-toy-steps-2", **choices)
    assert (folder / "checkpoint-1" / "model.safetensors").is_file()
    again = run("llava-toy-steps-2", **choices | {"max_steps": 2, "output_dir": folder})
    assert (again / "checkpoint-2").is_dir()
    assert len(losses(again)) == 2


def test_lora_with_an_unfrozen_tower_is_loaded_as_it_was_trained(
    run: Run, tiny_llama: Path
) -> None:
    choices = {"lora_enable": True, "lora_r": 4, "unfreeze_mm_vision_tower": True, "max_steps": 2}
    folder = run("llava-toy-lora-unfrozen", **choices)
    trained = torch.load(folder / "non_lora_trainables.bin", weights_only=True)
    _, model, _, _ = load(folder, tiny_llama)
    tower = model.get_vision_tower().radio
    found = tower.state_dict()
    saved = {n.partition(".radio.")[2]: x.half() for n, x in trained.items() if ".radio." in n}
    assert [n for n, x in saved.items() if not torch.equal(x, found[n].half())] == []
    kept, buffers = load_model("toy").named_buffers(), dict(tower.named_buffers())
    assert [n for n, x in kept if not torch.allclose(x.to(buffers[n].dtype), buffers[n])] == []


@pytest.mark.parametrize("name", TOY_TEACHERS)
def test_a_llava_is_trained_loaded_again_and_asked(
    name: str, llava_flags: Callable[..., list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "llava-teacher"
    changes = {"vision_tower": name, "radio_resolution": None, "max_steps": 2}
    assert train.main(llava_flags(**changes, output_dir=out)) == 0
    recorded = json.loads((out / "config.json").read_text())
    spec = load_teacher(name).spec
    assert recorded["mm_vision_tower"] == name
    assert recorded["mm_hidden_size"] == spec.feature_dim
    assert recorded["radio_tower"]["resolution"] == spec.input_size

    answerer = load_answerer(out)
    assert answerer.image_tokens(30, 200) == spec.grid()[0] ** 2
    photo, other = Image.new("RGB", (50, 80), "red"), Image.new("RGB", (90, 20), "blue")
    query = Query(text="What colour is it?", images=(photo,))
    queries = [query, Query(text="And this?", images=(other,)), Query(text="Which day is it?")]
    together = answerer.answers(queries, max_new_tokens=4)
    assert together == [answerer.answers([q], max_new_tokens=4)[0] for q in queries]


def test_mixed_samples_train_and_another_tower_takes_the_teachers_place(
    llava_flags: Callable[..., list[str]], mixed_conversations: Path, tmp_path: Path
) -> None:
    out, again = tmp_path / "llava-first", tmp_path / "llava-again"
    shared: dict[str, Any] = {"data_path": mixed_conversations, "max_steps": 1}
    flags = llava_flags(**shared, vision_tower="toy-dino", radio_resolution=None, output_dir=out)
    assert train.main(flags) == 0
    changes = {"model_name_or_path": out, "output_dir": again, **shared}
    with pytest.raises(ValueError, match="leave out --radio_resolution"):
        train.main(llava_flags(**changes, vision_tower="toy-dino"))
    assert train.main(llava_flags(**changes, vision_tower="toy")) == 0  # of the same width
    assert json.loads((again / "config.json").read_text())["mm_vision_tower"] == "toy"
    with pytest.raises(ValueError, match="projector takes features of width 128"):
        train.main(llava_flags(**changes, vision_tower="toy-sam", radio_resolution=None))
