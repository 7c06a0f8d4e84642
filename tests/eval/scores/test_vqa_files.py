"""Files that cannot be scored are refused with a message that names the fault."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from radio_eval.cli import score
from radio_eval.data import answers as answer_files
from radio_eval.data.answers import ScoreInputError, read_answers, read_document
from radio_eval.scores.vqa import says_yes
from radio_eval.scores.vqa_benchmarks import Vqav2

Json = dict[str, Any]
SHORT = "\nAnswer the question using a single word or phrase."


def score_gqa(questions: Path, answers: Path) -> Json:
    return score.GqaOptions(questions=questions, answers=answers).scores()


def score_textvqa(annotations: Path, answers: Path) -> Json:
    return score.TextVqaOptions(annotations=annotations, answers=answers).scores()


def score_pope(questions: Path, answers: Path, llava: Path | None = None) -> Json:
    return score.PopeOptions(questions=questions, answers=answers, llava_questions=llava).scores()


def score_vqav2(questions: Path, answers: Path, annotations: Path, **more: bool) -> Json:
    files = {"questions": questions, "answers": answers, "annotations": annotations}
    return score.Vqav2Options(**files, **more).scores()


def score_scienceqa(problems: Path, splits: Path, answers: Path, split: str = "test") -> Json:
    files = {"problems": problems, "splits": splits, "answers": answers}
    return score.ScienceQaOptions(**files, split=split).scores()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, object], Path]:
    """Writes a list as JSON lines when the name ends in "l", everything else as JSON."""

    def write_file(name: str, content: object) -> Path:
        path = tmp_path / name
        if name.endswith("l") and isinstance(content, list):
            path.write_text("".join(json.dumps(line) + "\n" for line in content))
        else:
            path.write_text(json.dumps(content))
        return path

    return write_file


Write = Callable[[str, object], Path]


def said(*texts: str, first: int = 0) -> list[Json]:
    return [
        {"question_id": n, "text": t, "prompt": f"Q{n}?{SHORT}"} for n, t in enumerate(texts, first)
    ]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "empty; expected one JSON object a line"),
        (b'{"question_id": 1, "text": "a"}\n{"question_id": 2, "te', r"1 broken line: line 2 \("),
        (
            b'{"a": 1}\n\n[1]\n"x"\n{\n5\n',
            r"4 broken lines: line 3 .*, line 4 .*, line 5 .*, \.\.\.",
        ),
        (b'\xff{"question_id": 1, "text": "a"}', "1 broken line: line 1"),
        (b"[" * 100_000, "nested too deeply|broken line"),
        (b'{"question_id": 1}', 'expected "question_id" .*; not so in 1 line: line 1'),
        (
            b'{"question_id": true, "text": "a"}\n{"question_id": 1.5, "text": "a"}',
            "not so in 2 lines: line 1, line 2",
        ),
        (b'{"question_id": 1, "text": 7}', 'and "text"'),
        (b'{"question_id": 1, "text": "a", "prompt": 7}', "not so in 1 line"),
    ],
)
def test_broken_answer_files(content: bytes, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(content)
    with pytest.raises(ScoreInputError, match=fault) as error:
        read_answers(path)
    assert "answers.jsonl" in str(error.value)
    assert "\n" not in str(error.value)


def test_answers_are_read_whatever_their_ids_are(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"question_id": 1, "text": "a"}\r\n\n{"question_id": "x", "text": ""}'
    )
    assert [(a.line, a.question_id, a.text) for a in read_answers(path).said] == [
        (1, "1", "a"),
        (3, "x", ""),
    ]


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"question_id": 1, "text": "a long answer"}\n')
    monkeypatch.setattr(answer_files, "MAX_LINE_BYTES", 20)
    with pytest.raises(ScoreInputError, match=r"line 1 \(longer than 20 bytes\)"):
        read_answers(path)
    monkeypatch.setattr(answer_files, "MAX_FILE_BYTES", 20)
    with pytest.raises(ScoreInputError, match="larger than 20 bytes"):
        read_document(path)
    with pytest.raises(ScoreInputError, match="no such file"):
        read_document(tmp_path)


def test_messages_hold_no_control_characters(write: Write) -> None:
    questions = write("q.json", {"\x1b[2J": {"answer": "no", "isBalanced": True}, "0": {}})
    with pytest.raises(ScoreInputError, match="not so in 1 question"):
        score_gqa(questions, write("a.jsonl", said("no")))
    questions = write("q.json", {k: {"answer": "no", "isBalanced": True} for k in ("0", "\x1b[2J")})
    with pytest.raises(ScoreInputError, match=r"no answer to 1 question: \\x1b\[2J"):
        score_gqa(questions, write("a.jsonl", said("no")))


def gqa_questions(number: int) -> Json:
    return {str(n): {"answer": "no", "isBalanced": True} for n in range(number)}


def test_gqa(write: Write) -> None:
    questions = write("q.json", gqa_questions(3))
    with pytest.raises(ScoreInputError, match=r"a\.jsonl: no answer to 2 questions: 1, 2"):
        score_gqa(questions, write("a.jsonl", said("no")))
    with pytest.raises(
        ScoreInputError, match=r"keep one of 1 repeated answer: 0 \(lines 1 and 2\)"
    ):
        score_gqa(questions, write("a.jsonl", said("no") + said("yes", "no", "no")))
    with pytest.raises(ScoreInputError, match="no answer fits: it has 2 answers: 7, 8"):
        score_gqa(questions, write("a.jsonl", said("no", "no", first=7)))
    for wrong, fault in (
        ([], "wrong format"),
        ({"0": {"answer": "no"}}, "not so in 1 question: 0"),
    ):
        with pytest.raises(ScoreInputError, match=fault):
            score_gqa(write("q.json", wrong), write("a.jsonl", said("no")))
    questions = write("q.json", gqa_questions(3))
    shuffled = said("no", "no", "red", "blue")[::-1]
    scores = score_gqa(questions, write("a.jsonl", shuffled))
    assert scores["accuracy"] == pytest.approx(200 / 3)
    assert (scores["count"], scores["other_answers"]) == (3, 1)
    assert scores["binary"] is None


def textvqa_data(*questions: tuple[str, str]) -> Json:
    return {"data": [{"image_id": i, "question": q, "answers": ["a"] * 10} for i, q in questions]}


def test_textvqa(write: Write) -> None:
    annotations = write("t.json", textvqa_data(("x", "Who?"), ("x", "What?"), ("y", "WHO?")))
    lines = [
        {"question_id": image, "text": "a", "prompt": question + SHORT}
        for image, question in (("y", "Who?"), ("x", "What?"), ("x", "Who?"))
    ]
    scores = score_textvqa(annotations, write("a.jsonl", lines))
    assert scores == {"accuracy": 100.0, "count": 3}
    with pytest.raises(ScoreInputError, match=r"no answer to 1 question: x who\?"):
        score_textvqa(annotations, write("a.jsonl", lines[:2]))
    with pytest.raises(ScoreInputError, match=r"answered more than once: 1 question: y who\?"):
        score_textvqa(annotations, write("a.jsonl", [*lines, lines[0]]))
    with pytest.raises(ScoreInputError, match=r"line 2 \(image z\)"):
        score_textvqa(annotations, write("a.jsonl", [lines[0], {**lines[0], "question_id": "z"}]))
    with pytest.raises(ScoreInputError, match=r"line 1: no TextVQA prompt \(1 lines\)"):
        score_textvqa(annotations, write("a.jsonl", [{"question_id": "x", "text": "a"}]))
    few = textvqa_data(("x", "Who?"))
    few["data"][0]["answers"].pop()
    for wrong, fault in ((few, "9 answers"), ({"questions": []}, '"data"'), ([], "wrong format")):
        with pytest.raises(ScoreInputError, match=fault):
            score_textvqa(write("t.json", wrong), write("a.jsonl", lines))


def test_textvqa_question_asked_twice(write: Write) -> None:
    annotations = write("t.json", textvqa_data(("x", "Who?"), ("x", "who?")))
    line = {"question_id": "x", "text": "a", "prompt": "Who?" + SHORT}
    assert score_textvqa(annotations, write("a.jsonl", [line, line]))["count"] == 2


def pope_labels(*labels: str) -> list[Json]:
    return [{"question_id": n, "text": f"Q{n}?", "label": label} for n, label in enumerate(labels)]


def test_pope_order(write: Write) -> None:
    questions = write("coco_pope_random.jsonl", pope_labels("yes", "no", "no"))
    good = said("Yes", "No", "Yes")
    assert score_pope(questions, write("a.jsonl", good))["FP"] == 1
    no_prompts = [{"question_id": n, "text": "No"} for n in range(3)]
    assert score_pope(questions, write("a.jsonl", no_prompts))["recall"] == 0.0
    with pytest.raises(ScoreInputError, match="2 answers for 3 labels"):
        score_pope(questions, write("a.jsonl", good[:2]))
    with pytest.raises(ScoreInputError, match="another order: 2 pairs: line 1 answers 'Q2"):
        score_pope(questions, write("a.jsonl", good[::-1]))
    with pytest.raises(ScoreInputError, match=r"2 answers: line 1 \(1, not 0\)"):
        score_pope(questions, write("a.jsonl", [no_prompts[n] for n in (1, 0, 2)]))
    with pytest.raises(ScoreInputError, match="1 repeated answer"):
        score_pope(questions, write("a.jsonl", [good[0], good[0], good[2]]))
    with pytest.raises(ScoreInputError, match="not so in 1 line: line 2"):
        score_pope(write("p.jsonl", pope_labels("yes", "Yes")), write("a.jsonl", good[:2]))


def test_pope_with_llavas_own_numbers(write: Write) -> None:
    questions = write("coco_pope_random.jsonl", pope_labels("yes", "no", "no"))
    good = [
        {**line, "question_id": line["question_id"] + 10**7} for line in said("Yes", "No", "No")
    ]
    assert score_pope(questions, write("a.jsonl", good))["accuracy"] == 100.0
    swapped = [{**line, "question_id": key} for line, key in zip(good, (5, 4, 6), strict=True)]
    with pytest.raises(ScoreInputError, match="the question ids are in another order"):
        score_pope(questions, write("a.jsonl", swapped))


def test_pope_answers_to_all_splits(write: Write) -> None:
    labels = write("coco_pope_popular.jsonl", pope_labels("yes", "no"))
    answers = [
        *said("No", "No"),
        *[{**a, "question_id": 7 + n} for n, a in enumerate(said("Yes", "No"))],
    ]
    lines = [
        {"question_id": key, "category": category}
        for key, category in ((0, "random"), (1, "random"), (7, "popular"), (8, "popular"))
    ]
    path, llava = write("a.jsonl", answers), write("llava.jsonl", lines)
    assert score_pope(labels, path, llava)["accuracy"] == 100.0
    other = write("coco_pope_adversarial.jsonl", pope_labels("yes", "no"))
    with pytest.raises(ScoreInputError, match="'adversarial'; it has popular, random"):
        score_pope(other, path, llava)


def test_pope_ratios_without_anything_to_divide_by(write: Write) -> None:
    scores = score_pope(
        write("p.jsonl", pope_labels("no", "no")), write("a.jsonl", said("No", "No"))
    )
    assert scores["accuracy"] == 100.0
    assert scores["precision"] is scores["recall"] is scores["f1"] is None


def test_pope_reads_words_exactly() -> None:
    assert not any(map(says_yes, ("No", "no, it is", "It is not. Yes")))
    assert all(map(says_yes, ("Yes. No", "NO", "No!", "nothing", "\nNo", "")))


def vqa_questions(number: int) -> Json:
    return {
        "questions": [{"question_id": n, "image_id": 1, "question": "Q"} for n in range(number)]
    }


def vqa_annotations(number: int) -> Json:
    people = [{"answer": "yes"}] * 10
    return {
        "annotations": [
            {"question_id": n, "answer_type": "yes/no", "answers": people} for n in range(number)
        ]
    }


def test_vqav2(write: Write) -> None:
    questions = write("q.json", vqa_questions(2))
    answers = write("a.jsonl", said("Yes.", first=1) + said("no", first=9))
    labels = write("n.json", vqa_annotations(3))
    assert Vqav2(questions).submission(read_answers(answers)) == [
        {"question_id": 0, "answer": ""},
        {"question_id": 1, "answer": "yes"},
    ]
    assert score_vqav2(questions, answers, labels) == {
        "accuracy": 50.0,
        "per_answer_type": {"yes/no": 50.0},
        "count": 2,
        "missing": 1,
        "other_answers": 1,
    }
    assert score_vqav2(questions, answers, labels, normalise=False)["accuracy"] == 0.0
    with pytest.raises(ScoreInputError, match="no annotation of 1 question: 1"):
        score_vqav2(questions, answers, write("n.json", vqa_annotations(1)))
    with pytest.raises(ScoreInputError, match="no answer fits"):
        Vqav2(questions).submission(read_answers(write("a.jsonl", said("yes", first=5))))


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ({}, 'expected a list of objects under "questions"'),
        ({"questions": []}, "wrong format"),
        ({"questions": [1]}, "wrong format"),
        ({"questions": [{"question_id": 1}, {"question": "Q"}]}, "not so in 1 question: number 1"),
        ({"questions": [{"question_id": 1}] * 2}, "asked more than once: 1 id: 1"),
    ],
)
def test_vqav2_questions(document: Json, fault: str, write: Write) -> None:
    with pytest.raises(ScoreInputError, match=fault):
        Vqav2(write("q.json", document))


def test_vqav2_annotations(write: Write) -> None:
    questions = write("q.json", vqa_questions(1))
    twice = {"annotations": vqa_annotations(1)["annotations"] * 2}
    empty = {"annotations": [{**vqa_annotations(1)["annotations"][0], "answers": []}]}
    for wrong, fault in (
        (twice, "annotated more than once"),
        (empty, "not so in 1 annotation"),
        ([], "wrong"),
    ):
        with pytest.raises(ScoreInputError, match=fault):
            Vqav2(questions, write("n.json", wrong))


def test_scienceqa(write: Write) -> None:
    problems = write("p.json", {str(n): {"choices": ["x", "y"], "answer": 1} for n in range(4)})
    splits = write(
        "s.json", {"test": ["0", "1", "2"], "val": ["3"], "odd": ["9"], "twice": ["1", "1"]}
    )
    answers = write("a.jsonl", [*said("B", "b", first=1), {"question_id": "3", "text": "B"}])
    assert score_scienceqa(problems, splits, answers) == {
        "accuracy": pytest.approx(100 / 3),
        "image_accuracy": None,
        "count": 3,
        "image_count": 0,
        "missing": 1,
        "unclear": 1,
        "other_answers": 1,
    }
    assert score_scienceqa(problems, splits, answers, "val")["accuracy"] == 100.0
    for split, fault in (
        ("minival", "no split 'minival'; it has test, val, odd, twice"),
        ("odd", "lacks, of split 'odd', 1 problem: 9"),
        ("twice", "more than once in split 'twice': 1 id: 1"),
    ):
        with pytest.raises(ScoreInputError, match=fault):
            score_scienceqa(problems, splits, answers, split)
    with pytest.raises(ScoreInputError, match="no answer fits"):
        score_scienceqa(problems, splits, write("a.jsonl", said("B")), "val")
    with pytest.raises(ScoreInputError, match="split 'test' is no list"):
        score_scienceqa(problems, write("s.json", {"test": "012"}), answers)
    broken = write("p.json", {"0": {"choices": ["x"], "answer": 1}})
    with pytest.raises(ScoreInputError, match="not so in 1 problem: 0"):
        score_scienceqa(broken, write("s.json", {"test": [0]}), answers)
