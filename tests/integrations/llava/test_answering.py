import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("llava", reason="needs llava-torch, see the extra 'llava'")
pytest.importorskip("peft", reason="needs the extra 'llava'")

from radio_core.cli import main
from radio_llava.answering import Answerer, Query, conversation_of, load_answerer
from radio_llava.images import token_count

pytestmark = pytest.mark.slow

COLOURS = ("red", "green", "blue", "yellow")
SIZES = ((90, 50), (33, 64), (64, 64), (20, 128))
QUESTION = "What colour is the object?"


@pytest.fixture(scope="module")
def trained(run: Callable[..., Path]) -> Path:
    """A whole model whose answers depend on the image; its name says nothing true of it."""
    from safetensors.torch import load_file, save_file

    folder = run("first-prompt-lora", max_steps=1)
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():  # large enough for everything to matter
        if "vision_tower" not in name and tensor.ndim == 2:
            tensor *= 30 if "mm_projector.2" in name else 8
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def converted(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in transformers' form."""
    from radio_llava.hf import convert_llava

    folder = tmp_path_factory.mktemp("converted") / "tiny"
    convert_llava(trained, folder, dtype=torch.float32)
    return folder


@pytest.fixture(scope="module")
def original(trained: Path) -> Answerer:
    return load_answerer(trained)


@pytest.fixture(scope="module")
def transformed(converted: Path) -> Answerer:
    return load_answerer(converted)


@pytest.fixture(scope="module", params=["original", "transformed"])
def answerer(request: pytest.FixtureRequest) -> Answerer:
    found: Answerer = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.new("RGB", size, c) for size, c in zip(SIZES, COLOURS, strict=True)]


@pytest.fixture(scope="module")
def queries(pictures: list[Image.Image]) -> list[Query]:
    """Mixed sizes and lengths, two images, none, and a second turn."""
    red, green, blue, yellow = pictures
    return [
        Query(text=QUESTION, images=(red,)),
        Query(text="Is there a red ring?\nAnswer with yes or no.", images=(green,)),
        Query(text="How many?"),
        Query(text="<image> or <image>", images=(blue, yellow)),
        Query(text="How many?", images=(yellow,), history=((QUESTION, "blue <image>"),)),
        Query(text="What are they doing to the dog? What colour is the circle?"),
    ]


def test_a_batch_is_answered_like_its_queries_one_by_one(
    answerer: Answerer, queries: list[Query]
) -> None:
    alone = [answerer.answers([query], 12)[0] for query in queries]
    assert len(set(alone)) > 2  # else it could not show a mix-up
    assert answerer.answers(queries, 12) == alone
    assert answerer.answers(queries[::-1], 12) == alone[::-1]
    assert answerer.answers([], 12) == []


def test_both_forms_read_and_say_the_same(
    original: Answerer, transformed: Answerer, queries: list[Query]
) -> None:
    for query in queries:
        assert original.prompt(query) == transformed.prompt(query)
    assert original.answers(queries, 12) == transformed.answers(queries, 12)
    assert original.image_tokens(480, 640) == transformed.image_tokens(480, 640)


def test_the_answer_depends_on_the_image(answerer: Answerer) -> None:
    from radio_core.data.toyworld import render_scene

    scenes = [Image.fromarray(render_scene(0, index).image) for index in range(8)]
    said = answerer.answers([Query(text=QUESTION, images=(scene,)) for scene in scenes], 4)
    assert len(set(said)) > 1


def test_a_stream_gives_the_pieces_of_the_answer(answerer: Answerer, queries: list[Query]) -> None:
    for query in queries:
        pieces: list[str] = []
        said = answerer.stream(query, pieces.append, 12)
        assert said == answerer.answers([query], 12)[0] == "".join(pieces).strip()


def test_prompts_are_those_of_llava(
    shared: Path, answerer: Answerer, pictures: list[Image.Image]
) -> None:
    cases = json.loads((shared / "reference/eval_cases/llava_io.json").read_text())["cases"]
    case = next(case for case in cases if case["name"] == "vicuna_v1_prompt")
    query = Query(text=case["input"], images=(pictures[0],))
    assert answerer.prompt(query) == case["expected"]
    marked = Query(text="<image>\n" + case["input"], images=(pictures[0],))
    assert answerer.prompt(marked) == case["expected"]


def test_earlier_turns_are_in_the_prompt(answerer: Answerer, pictures: list[Image.Image]) -> None:
    history = (("What is it?", "A <image> ring"), ("Is it red?", "yes"))
    prompt = answerer.prompt(Query(text="Why?", images=(pictures[0],), history=history))
    assert prompt.endswith(
        "USER: <image>\nWhat is it? ASSISTANT: A  ring</s>USER: Is it red? ASSISTANT: yes</s>"
        "USER: Why? ASSISTANT:"
    )


@pytest.mark.parametrize(
    ("text", "count", "message"),
    [
        ("Is <image> red?", 0, "has <image> 1 time.*no image was given"),
        ("<image> or <image>", 1, "<image> 2 time.*1 image.s. were given"),
        ("Is <image> red?", 2, "<image> 1 time.*2 image.s. were given"),
    ],
)
def test_images_and_their_marks_must_agree(
    answerer: Answerer, pictures: list[Image.Image], text: str, count: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        answerer.answers([Query(text=text, images=tuple(pictures[:count]))])


def test_images_without_marks_come_first() -> None:
    picture = Image.new("RGB", (8, 8))
    query = Query(text="b", images=(picture,) * 2, history=(("a", "said"),))
    assert query.turns() == [("<image>\n<image>\na", "said"), ("b", "")]
    query = Query(text="b <image>", images=(picture,), history=(("a", "said"),))
    assert query.turns() == [("a", "said"), ("b <image>", "")]


def test_image_tokens_are_those_that_the_model_sees(
    original: Any, pictures: list[Image.Image]
) -> None:
    for picture in pictures:
        pixels = original.pixels([picture])
        tower = original.model.get_vision_tower()
        seen = [len(tokens) for tokens in tower(list(pixels))]
        assert seen == [original.image_tokens(picture.height, picture.width)]
        assert seen == [token_count(picture.height, picture.width, 64, 8)]


def test_the_model_runs_in_float32_on_the_cpu(trained: Path, original: Any) -> None:
    from safetensors.torch import load_file

    assert {p.dtype for p in original.model.parameters()} == {torch.float32}
    saved = load_file(trained / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(original.model.state_dict()["model.embed_tokens.weight"], saved.float())
    assert original.settings["dtype"] == "float32"
    assert not original.model.training


def test_another_dtype_can_be_chosen(trained: Path, queries: list[Query]) -> None:
    half: Any = load_answerer(trained, dtype=torch.bfloat16)
    assert half.model.get_vision_tower().dtype == torch.bfloat16
    assert len(half.answers(queries, 2)) == len(queries)


def test_padding_for_training_stays_as_it_was(original: Any, queries: list[Query]) -> None:
    original.model.config.tokenizer_padding_side = "right"
    original.answers(queries, 1)
    assert original.model.config.tokenizer_padding_side == "right"


def test_parts_are_loaded_onto_their_base(
    run: Callable[..., Path], tiny_llama: Path, queries: list[Query]
) -> None:
    lora = run("adapter", lora_enable=True, lora_r=4, max_steps=2)
    projector = run("pretrain", version="plain", tune_mm_mlp_adapter=True, max_steps=2)
    for folder, what in ((lora, "LoRA"), (projector, "projector")):
        with pytest.raises(ValueError, match=f"{what} alone.*--base"):
            load_answerer(folder)
        loaded = load_answerer(folder, base=tiny_llama)
        assert loaded.name == folder.name
        assert loaded.answers(queries[:3], 12) == [
            loaded.answers([query], 12)[0] for query in queries[:3]
        ]


def test_what_is_no_llava_is_refused(
    tiny_llama: Path, trained: Path, converted: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"no directory with a LLaVA.*no config\.json"):
        load_answerer(tmp_path / "gone")
    with pytest.raises(ValueError, match="model_type 'llama' is no LLaVA; known: llava_llama"):
        load_answerer(tiny_llama)
    for folder in (trained, converted):
        with pytest.raises(ValueError, match="whole model: leave the base model out"):
            load_answerer(folder, base=tiny_llama)
        with pytest.raises(ValueError, match=r"unknown conversation 'v9'.*vicuna_v1"):
            load_answerer(folder, conv_mode="v9")
    config = json.loads((trained / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="has no weights"):
        load_answerer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "x.y"}}))
    with pytest.raises(ValueError, match="code of its own"):
        load_answerer(tmp_path)


def test_the_conversation_follows_the_kind_of_model() -> None:
    assert conversation_of({"model_type": "llava_llama"}, "mine") == "vicuna_v1"
    assert conversation_of({"model_type": "llava_mistral"}, "mine") == "mistral_instruct"
    assert conversation_of({"model_type": "llava_mpt"}, "mine") == "mpt"
    assert conversation_of({"model_type": "llava_llama"}, "LLaVA-Llama-2-7b") == "llava_llama_2"


def test_a_conversation_can_be_chosen(trained: Path, pictures: list[Image.Image]) -> None:
    prompt = load_answerer(trained, conv_mode="llava_v1").prompt(Query(text="Why?"))
    assert prompt.startswith("A chat between a curious human")


def test_photos_with_their_questions_are_asked_by_the_command(
    shared: Path,
    trained: Path,
    tmp_path: Path,
    original: Answerer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    vqa, answers, scores = shared / "data/vqa", tmp_path / "a.jsonl", tmp_path / "scores.json"
    argv = ["eval", "vqa", "--task", "vqav2", "--model", str(trained), "--answers", str(answers)]
    argv += ["--questions", str(vqa / "vqav2_llava.jsonl"), "--images", str(shared / "data/coco")]
    argv += ["--annotations", str(vqa / "vqav2_annotations.json"), "--json", str(scores)]
    argv += ["--max-new-tokens", "4", "--device", "cpu"]
    assert main([*argv, "--limit", "6"]) == 0
    assert main([*argv, "--batch-size", "16"]) == 0
    result = json.loads(scores.read_text())["metrics"]
    assert (result["count"], result["unanswered"]) == (78, 0)
    assert 0 <= result["accuracy"] <= 100
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    questions = [json.loads(x) for x in (vqa / "vqav2_llava.jsonl").read_text().splitlines()]
    assert [x["question_id"] for x in lines] == [x["question_id"] for x in questions]
    for place in (0, 40, 77):
        image = Image.open(shared / "data/coco" / questions[place]["image"])
        query = Query(text=questions[place]["text"], images=(image,))
        assert original.answers([query], 4) == [lines[place]["text"]]
    assert "accuracy" in capsys.readouterr().out


def test_the_chat_command_talks_with_either_form(
    trained: Path, converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (90, 50), "red").save(tmp_path / "red.png")
    said = []
    for folder in (trained, converted):
        argv = [str(tmp_path / "red.png"), "--model", str(folder), "--max-new-tokens", "6"]
        assert main(["llava", "chat", *argv, "--prompt", QUESTION, "--prompt", "How many?"]) == 0
        shown = capsys.readouterr()
        assert "90 x 50 pixels, 40 image tokens" in shown.err
        said.append(shown.out)
    assert said[0] == said[1] != "\n\n"
