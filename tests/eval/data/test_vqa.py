"""Where the files of the VQA benchmarks are, and what is said of questions that do not fit."""

import json
from pathlib import Path
from typing import Any

import pytest

from radio_core.data.toyworld.export import export
from radio_eval.data.answers import ScoreInputError
from radio_eval.data.vqa import BENCHMARKS, SCIENCEQA_PROMPT, find_vqa_data, read_vqa_questions


def test_scienceqa_is_asked_with_llavas_prompt(tmp_path: Path) -> None:
    export(tmp_path, 1, 4, parts=("vqa",))
    data = find_vqa_data("scienceqa", tmp_path / "vqa")
    first, *_, last = read_vqa_questions(data.questions, "scienceqa")
    assert first.prompt.startswith("<image>\nContext: N/A\nQuestion: Which of")
    assert first.prompt.endswith("\n" + SCIENCEQA_PROMPT)
    assert first.prompt.count("<image>") == 1
    assert not last.image
    assert "<image>" not in last.prompt
    assert last.prompt.endswith("\n" + SCIENCEQA_PROMPT)


def test_llavas_own_folders_are_known(tmp_path: Path) -> None:
    files = [
        "gqa/llava_gqa_testdev_balanced.jsonl",
        "gqa/data/questions1.2/testdev_balanced_questions.json",
        "textvqa/llava_textvqa_val_v051_ocr.jsonl",
        "textvqa/TextVQA_0.5.1_val.json",
        "pope/llava_pope_test.jsonl",
        "pope/coco/coco_pope_random.json",
        "vqav2/llava_vqav2_mscoco_test-dev2015.jsonl",
        "scienceqa/llava_test_CQM-A.json",
        "scienceqa/problems.json",
        "scienceqa/pid_splits.json",
    ]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {task: find_vqa_data(task, tmp_path) for task in BENCHMARKS}
    assert found["gqa"].annotations == (tmp_path / files[1],)
    assert found["gqa"].images == tmp_path / "gqa/data/images"
    assert found["textvqa"].images == tmp_path / "textvqa/train_images"
    assert found["pope"].annotations == (tmp_path / files[5],)
    assert not found["vqav2"].is_labelled
    assert found["scienceqa"].split == "test"
    assert find_vqa_data("pope", tmp_path / "pope") == found["pope"]


def test_folders_and_tasks_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"llava_gqa_train\.jsonl and .*testdev_balanced\.jsonl"):
        find_vqa_data("gqa", tmp_path, "train")
    with pytest.raises(ValueError, match="unknown task 'okvqa'; known: gqa"):
        find_vqa_data("okvqa", tmp_path)


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


def test_llavas_folders_have_one_split(tmp_path: Path) -> None:
    (tmp_path / "gqa").mkdir()
    (tmp_path / "gqa/llava_gqa_testdev_balanced.jsonl").write_text("{}\n")
    assert find_vqa_data("gqa", tmp_path).split == "test"
    with pytest.raises(ValueError, match="leave out --split train"):
        find_vqa_data("gqa", tmp_path, "train")
