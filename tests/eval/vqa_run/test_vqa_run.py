import json
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from radio_eval.processes import Processes
from radio_eval.vqa.questions import SCIENCEQA_PROMPT, read_vqa_questions
from radio_eval.vqa.run import evaluate_vqa
from radio_eval.vqa.tasks import TASKS, VqaData, find_vqa_data


@pytest.mark.parametrize("task", TASKS)
def test_right_answers_score_everything(
    task: str, toy_vqa: Path, tmp_path: Path, oracle_of: Any
) -> None:
    data = find_vqa_data(task, toy_vqa)
    answers = tmp_path / "deep" / "answers.jsonl"
    result = evaluate_vqa(oracle_of(data), data, answers, batch_size=3)
    questions = read_vqa_questions(data.questions, task)
    assert result["accuracy"] == pytest.approx(100)
    assert result["count"] == len(questions)
    assert result["unanswered"] == 0
    assert result["image_tokens"] == 64
    assert "unscored" not in result
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [(x["question_id"], x["prompt"]) for x in lines] == [
        (q.question_id, q.prompt) for q in questions
    ]
    assert set(lines[0]) == {
        "question_id", "prompt", "text", "answer_id", "model_id", "metadata",
    }  # fmt: skip
    assert {x["model_id"] for x in lines} == {"oracle"}


def test_pope_has_the_scores_of_each_split_and_their_means(
    toy_vqa: Path, tmp_path: Path, oracle_of: Any
) -> None:
    data = find_vqa_data("pope", toy_vqa)
    oracle = oracle_of(data)
    oracle.known = dict.fromkeys(oracle.known, "yes")
    result = evaluate_vqa(oracle, data, tmp_path / "answers.jsonl")
    assert set(result["splits"]) == {"random", "popular", "adversarial"}
    assert result["accuracy"] == pytest.approx(50)
    assert result["yes_ratio"] == pytest.approx(100)
    assert result["f1"] == pytest.approx(200 / 3)


def test_scienceqa_is_asked_with_llavas_prompt(toy_vqa: Path) -> None:
    data = find_vqa_data("scienceqa", toy_vqa)
    first, *_, last = read_vqa_questions(data.questions, "scienceqa")
    assert first.prompt.startswith("<image>\nContext: N/A\nQuestion: Which of")
    assert first.prompt.endswith("\n" + SCIENCEQA_PROMPT)
    assert first.prompt.count("<image>") == 1
    assert not last.image
    assert "<image>" not in last.prompt
    assert last.prompt.endswith("\n" + SCIENCEQA_PROMPT)


@pytest.mark.parametrize("task", TASKS)
def test_the_first_questions_are_scored_alone_and_then_the_others(
    task: str, toy_vqa: Path, tmp_path: Path, oracle_of: Any, ids: Any
) -> None:
    data = find_vqa_data(task, toy_vqa)
    answers = tmp_path / "answers.jsonl"
    total = len(read_vqa_questions(data.questions, task))
    part = evaluate_vqa(oracle_of(data), data, answers, limit=3)
    assert (part["accuracy"], part["count"]) == (pytest.approx(100), min(3, total))
    oracle = oracle_of(data)
    whole = evaluate_vqa(oracle, data, answers)
    assert (whole["accuracy"], whole["count"]) == (pytest.approx(100), total)
    assert oracle.asked == total - part["count"]
    part = evaluate_vqa(oracle_of(data), data, answers, limit=2)
    assert (part["accuracy"], part["count"]) == (pytest.approx(100), min(2, total))
    assert len(ids(answers)) == total  # nothing that was written is lost


def test_questions_of_like_length_are_asked_together(
    tmp_path: Path, make_oracle: Any, ids: Any, write_questions: Any
) -> None:
    sizes = {"wide.png": (640, 64), "small.png": (32, 32), "large.png": (640, 640)}
    for name, size in sizes.items():
        Image.new("RGB", size).save(tmp_path / name)
    lines = [
        {"question_id": number, "image": name, "text": f"{name} {number}"}
        for number, name in enumerate([*sizes] * 2)
    ]
    questions = write_questions(tmp_path / "questions.jsonl", lines)
    oracle = make_oracle({(tmp_path / line["image"], line["text"]): "x" for line in lines})
    data = VqaData(task="vqav2", questions=questions, images=tmp_path)
    result = evaluate_vqa(oracle, data, tmp_path / "answers.jsonl", batch_size=2)
    kinds = [[text.split()[0] for text in batch] for batch in oracle.batches]
    assert kinds == [[name] * 2 for name in ("large.png", "wide.png", "small.png")]
    assert ids(tmp_path / "answers.jsonl") == ["0", "1", "2", "3", "4", "5"]
    assert result["image_tokens"] == pytest.approx((160 + 4 + 1600) / 3)


class Threads(Processes):
    """Processes that are threads."""

    barrier: threading.Barrier
    values: dict[int, Any]

    def gather(self, value: Any) -> list[Any]:
        self.values[self.rank] = value
        self.barrier.wait()
        return [self.values[rank] for rank in range(self.count)] if self.is_first else []

    def wait(self) -> None:
        self.barrier.wait()


def test_several_processes_share_the_questions(
    gqa: VqaData, tmp_path: Path, oracle_of: Any, ids: Any
) -> None:
    barrier, values = threading.Barrier(2, timeout=60), {}
    oracles = [oracle_of(gqa), oracle_of(gqa)]
    results: dict[int, Any] = {}

    def work(rank: int) -> None:
        processes = Threads(rank=rank, count=2)
        object.__setattr__(processes, "barrier", barrier)
        object.__setattr__(processes, "values", values)
        answers = tmp_path / "answers.jsonl"
        results[rank] = evaluate_vqa(oracles[rank], gqa, answers, batch_size=2, processes=processes)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[1] == {}
    assert results[0]["accuracy"] == 100
    assert min(oracle.asked for oracle in oracles) >= len(ids(tmp_path / "answers.jsonl")) // 2 - 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "answers.jsonl",
        "answers.jsonl.settings.json",
    ]


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
    found = {task: find_vqa_data(task, tmp_path) for task in TASKS}
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
