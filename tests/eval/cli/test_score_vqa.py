"""The VQA sub-commands of `radio score` on the toy world's files and on small real ones."""

import json
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from radio_core.cli import main, parse
from radio_core.data.toyworld.export import export
from radio_eval.cli import score as commands

Json = dict[str, Any]
SPLITS = ("random", "popular", "adversarial")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy")
    export(out, 2, 16, parts=("vqa",))
    return out / "vqa"


def score(task: str, *arguments: object) -> Json:
    kind = get_type_hints(getattr(commands, task))["options"]
    options = parse(kind, [str(a) for a in arguments], prog=f"radio score {task}")
    return dict(options.scores())


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def read_lines(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answer(path: Path, questions: list[Json], texts: list[str]) -> Path:
    """LLaVA's answer lines to its question lines."""
    lines = [
        {"question_id": q["question_id"], "prompt": q["text"], "text": text, "metadata": {}}
        for q, text in zip(questions, texts, strict=True)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_right_pope_answers(toy: Path, tmp_path: Path) -> None:
    llava = toy / "pope" / "llava_pope_val.jsonl"
    lines = read_lines(llava)
    files = {split: toy / "pope" / "val" / f"coco_pope_{split}.json" for split in SPLITS}
    labels = {q["question_id"]: q["label"] for path in files.values() for q in read_lines(path)}
    right = [labels[line["question_id"]].title() for line in lines]
    answers = answer(tmp_path / "a.jsonl", lines, right)
    for path in files.values():
        arguments = ("--questions", path, "--answers", answers)
        scores = score("pope", *arguments, "--llava-questions", llava)
        assert (scores["f1"], scores["yes_ratio"]) == (100.0, 50.0)
        with pytest.raises(ValueError, match="paired line by line"):
            score("pope", *arguments)


def test_right_vqav2_answers(toy: Path, tmp_path: Path) -> None:
    folder = toy / "vqav2"
    annotations = folder / "val_annotations.json"
    lines = read_lines(folder / "llava_vqav2_val.jsonl")
    right = [entry["multiple_choice_answer"] for entry in read(annotations)["annotations"]]
    answers = answer(tmp_path / "a.jsonl", lines, right)
    for questions in ("val_questions.json", "llava_vqav2_val.jsonl"):
        arguments = ("--questions", folder / questions, "--answers", answers)
        scores = score("vqav2", *arguments, "--annotations", annotations)
        assert (scores["accuracy"], scores["count"], scores["missing"]) == (100.0, len(lines), 0)
        assert set(scores["per_answer_type"]) == {"yes/no", "number", "other"}


def test_real_vqav2_answers(shared: Path, tmp_path: Path) -> None:
    data = shared / "data" / "vqa"
    annotations, lines = data / "vqav2_annotations.json", read_lines(data / "vqav2_llava.jsonl")
    likeliest = {
        entry["question_id"]: entry["multiple_choice_answer"]
        for entry in read(annotations)["annotations"]
    }
    texts = [likeliest[line["question_id"]].capitalize() for line in lines]
    arguments = (
        *("--questions", data / "vqav2_questions.json", "--annotations", annotations),
        *("--answers", answer(tmp_path / "a.jsonl", lines, texts)),
    )
    upload = tmp_path / "upload.json"
    scores = score("vqav2", *arguments, "--submission", upload)
    assert scores["count"] == len(read(upload)) == len(lines)
    assert scores["accuracy"] > 85.0
    assert score("vqav2", *arguments, "--no-normalise")["accuracy"] < scores["accuracy"] - 5.0


def test_real_pope_answers_to_another_split_are_noticed(shared: Path, tmp_path: Path) -> None:
    data = shared / "data" / "vqa" / "pope"
    for split, other in zip(SPLITS, SPLITS[1:] + SPLITS[:1], strict=True):
        lines = read_lines(data / f"coco_pope_{split}.json")
        answers = answer(tmp_path / "a.jsonl", lines, ["Yes"] * len(lines))
        right, wrong = data / f"coco_pope_{split}.json", data / f"coco_pope_{other}.json"
        scores = score("pope", "--questions", right, "--answers", answers)
        assert (scores["yes_ratio"], scores["recall"], scores["count"]) == (
            100.0,
            100.0,
            len(lines),
        )
        with pytest.raises(ValueError, match="answers to another split or in another order"):
            score("pope", "--questions", wrong, "--answers", answers)


def test_the_command_prints_and_writes_the_scores(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = read_lines(toy / "vqav2" / "llava_vqav2_val.jsonl")
    answers = answer(tmp_path / "a.jsonl", lines, ["Yes"] * len(lines))
    out = tmp_path / "new" / "scores.json"
    arguments = [
        *("--questions", str(toy / "vqav2" / "val_questions.json"), "--answers", str(answers)),
        *("--annotations", str(toy / "vqav2" / "val_annotations.json"), "--json", str(out)),
    ]
    assert main(["score", "vqav2", *arguments]) == 0
    printed, scores = capsys.readouterr().out, read(out)
    assert f"accuracy: {scores['accuracy']:.4f}" in printed
    assert "per_answer_type: number 0.0000, other 0.0000, yes/no " in printed
    assert 0 < scores["accuracy"] < scores["per_answer_type"]["yes/no"] < 100


def test_vqav2_submission_alone(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = read_lines(toy / "vqav2" / "llava_vqav2_val.jsonl")
    answers = answer(tmp_path / "a.jsonl", lines[1:], ["Two."] * (len(lines) - 1))
    arguments = ("--questions", toy / "vqav2" / "val_questions.json", "--answers", answers)
    with pytest.raises(SystemExit, match="2"):
        score("vqav2", *arguments)
    assert "nothing to do: name --annotations" in capsys.readouterr().err
    scores = score("vqav2", *arguments, "--submission", tmp_path / "upload.json")
    assert scores == {"count": len(lines), "missing": 1}
    upload = read(tmp_path / "upload.json")
    assert [entry["answer"] for entry in upload] == ["", *["2"] * (len(lines) - 1)]
