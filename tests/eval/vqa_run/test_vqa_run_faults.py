import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from radio_eval.vqa.answers import ScoreInputError
from radio_eval.vqa.questions import read_vqa_questions
from radio_eval.vqa.run import evaluate_vqa
from radio_eval.vqa.tasks import VqaData, find_vqa_data


@pytest.mark.parametrize(
    ("task", "accuracy", "unscored"),
    [
        ("gqa", None, "no answer to"),
        ("textvqa", None, "no answer to"),
        ("pope", None, "answers for"),
        ("vqav2", 0, ""),
        ("scienceqa", 0, ""),
    ],
)
def test_questions_on_broken_images_have_no_answer(
    task: str,
    accuracy: float | None,
    unscored: str,
    toy_vqa: Path,
    tmp_path: Path,
    oracle_of: Any,
    copied: Any,
) -> None:
    data = copied(find_vqa_data(task, toy_vqa), tmp_path / "images")
    oracle = oracle_of(data)
    questions = read_vqa_questions(data.questions, task)
    names = list(dict.fromkeys(q.image for q in questions if q.image))
    contents = {name: (data.images / name).read_bytes() for name in names}
    gone, cut = names[0], names[1]
    (data.images / gone).unlink()
    (data.images / cut).write_bytes(contents[cut][:-200])
    answers = tmp_path / "answers.jsonl"
    result = evaluate_vqa(oracle, data, answers, batch_size=4)
    lost = sum(q.image in (gone, cut) for q in questions)
    assert result["unanswered"] == result["skipped"]["count"] == lost > 1
    assert set(result["skipped"]["reasons"]) >= {"missing"}
    assert sum(result["skipped"]["reasons"].values()) == lost
    first = next(q for q in questions if q.image == gone)
    assert any(
        text.startswith(str(first.question_id)) and Path(gone).name in text
        for text in result["skipped"]["questions"]
    )
    if accuracy is None:
        assert result["accuracy"] is None
        assert unscored in result["unscored"]
    else:
        assert result["accuracy"] == pytest.approx(100 * (1 - lost / len(questions)))
    for name, content in contents.items():
        (data.images / name).write_bytes(content)
    again = evaluate_vqa(oracle, data, answers)
    assert (again["accuracy"], again["unanswered"]) == (pytest.approx(100), 0)


def test_questions_that_cannot_be_asked_are_named(
    tmp_path: Path, make_oracle: Any, ids: Any, write_questions: Any
) -> None:
    Image.new("RGB", (32, 16), "red").save(tmp_path / "red.png")
    lines = [
        {"question_id": 0, "image": "red.png", "text": "Which colour?"},
        {"question_id": 1, "text": "Which colour <image>?"},
        {"question_id": 2, "image": "red.png", "text": "<image> or <image>?"},
        {"question_id": 3, "image": "red.png", "text": "This is refused"},
        {"question_id": 4, "image": "\0", "text": "What?"},
        {"question_id": 5, "image": "../../gone.png", "text": "What?"},
    ]
    questions = write_questions(tmp_path / "questions.jsonl", lines)
    data = VqaData(task="vqav2", questions=questions, images=tmp_path)
    oracle = make_oracle({(tmp_path / "red.png", "Which colour?"): "red"})
    result = evaluate_vqa(oracle, data, tmp_path / "answers.jsonl")
    assert ids(tmp_path / "answers.jsonl") == ["0"]
    assert result["skipped"]["reasons"] == {
        "it names no image": 1,
        "<image> 2 times for one image": 1,
        "refused by the model": 1,
        "missing": 2,
    }
    assert (
        "3 (This is refused): refused by the model: features overflow"
        in (result["skipped"]["questions"])
    )
    assert result["accuracy"] is None
    assert "not known" in result["unscored"]


def test_entries_of_scienceqa_need_their_image_marked(tmp_path: Path) -> None:
    def entry(key: str, text: str, **more: str) -> dict[str, Any]:
        return {"id": key, "conversations": [{"from": "human", "value": text}], **more}

    file = tmp_path / "entries.json"
    entries = [entry("1", "a\n<image>"), entry("2", "a", image="x.png"), entry("3", "a")]
    file.write_text(json.dumps(entries))
    faults = [question.fault for question in read_vqa_questions(file, "scienceqa")]
    assert faults == ["<image> without an image", "an image, but <image> 0 times", ""]


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("gqa", "[1, 2]", "line 1 .not an object"),
        ("gqa", '{"question_id": 1}\n{"question_id": 2, "text": "a"}', "so in 1 question: line 1"),
        ("gqa", '{"question_id": 1, "text": " <image> "}', "so in 1 question: line 1"),
        ("gqa", '{"question_id": true, "text": "a"}', "so in 1 question: line 1"),
        ("gqa", '{"question_id": 1, "text": "a"}\n{"question_id": "1", "text": "b"}', "more than"),
        ("scienceqa", "{}", "list of LLaVA's entries"),
        ("scienceqa", '[{"id": "1", "conversations": []}, 3]', "in 2 questions: number 0"),
        ("scienceqa", "nothing", "not a JSON file"),
    ],
)
def test_question_files_of_another_format_are_refused(
    task: str, content: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "questions"
    file.write_text(content)
    with pytest.raises(ScoreInputError, match=message):
        read_vqa_questions(file, task)


def test_right_answers_are_looked_at_before_the_questions_are_asked(
    make_oracle: Any, gqa: VqaData, toy_vqa: Path, tmp_path: Path
) -> None:
    pope = find_vqa_data("pope", toy_vqa)
    wrong = [
        (dataclasses.replace(gqa, annotations=(tmp_path / "gone.json",)), "no such file"),
        (dataclasses.replace(gqa, annotations=(gqa.questions,)), "not a JSON file"),
        (dataclasses.replace(pope, annotations=pope.annotations[:1]), "no label file for 2"),
    ]
    for data, message in wrong:
        oracle = make_oracle({})
        with pytest.raises(ScoreInputError, match=message):
            evaluate_vqa(oracle, data, tmp_path / "answers.jsonl")
        assert oracle.batches == []
    with pytest.raises(ValueError, match="no folder of images"):
        evaluate_vqa(
            make_oracle({}), dataclasses.replace(gqa, images=tmp_path / "no"), tmp_path / "a"
        )
    with pytest.raises(ValueError, match="at least 1"):
        evaluate_vqa(make_oracle({}), gqa, tmp_path / "a", batch_size=0)


def test_llavas_folders_have_one_split(tmp_path: Path) -> None:
    (tmp_path / "gqa").mkdir()
    (tmp_path / "gqa/llava_gqa_testdev_balanced.jsonl").write_text("{}\n")
    assert find_vqa_data("gqa", tmp_path).split == "test"
    with pytest.raises(ValueError, match="leave out --split train"):
        find_vqa_data("gqa", tmp_path, "train")
