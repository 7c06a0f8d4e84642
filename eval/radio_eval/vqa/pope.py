"""POPE: does the model see objects that are not there? Yes or no, paired line by line.

Labels and answers belong together by the order of their lines. Ids cannot replace it, because
LLaVA's question file numbers the three splits anew; but ids and prompts show when the order is not
the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radio_core.data.images import printable
from radio_eval.vqa.answers import (
    Answer,
    ScoreInputError,
    by_question,
    counted,
    identifier,
    listed,
    percentage,
    read_answers,
    read_lines,
)

_NO = frozenset({"No", "no", "not"})


@dataclass(frozen=True, kw_only=True)
class PopeLabel:
    """A question with its right answer.

    Attributes:
        line: of the label file, from 1.
        question_id: as text.
        question: without the request for a short answer.
        yes: the object is there.
    """

    line: int
    question_id: str
    question: str
    yes: bool


def says_yes(text: str) -> bool:
    """Whether a model's words count as yes: everything does without "No", "no" or "not".

    Only the text before the first full stop is read, without commas, split at blanks. "NO", "No!"
    and "" count as yes.
    """
    words = text.split(".", maxsplit=1)[0].replace(",", "").split(" ")
    return _NO.isdisjoint(words)


def pope_metrics(predictions: Sequence[bool], labels: Sequence[bool]) -> dict[str, Any]:
    """Scores of yes (True) and no (False); yes is the positive class.

    Returns:
        "accuracy", "precision", "recall", "f1" and "yes_ratio" in percent, None where nothing was
        there to divide by; "count"; and the counts "TP", "FP", "TN", "FN".

    Raises:
        ValueError: not as many predictions as labels.
    """
    pairs = list(zip(predictions, labels, strict=True))
    tp, fp = pairs.count((True, True)), pairs.count((True, False))
    tn, fn = pairs.count((False, False)), pairs.count((False, True))
    return {
        "accuracy": percentage(tp + tn, len(pairs)),
        "precision": percentage(tp, tp + fp),
        "recall": percentage(tp, tp + fn),
        "f1": percentage(2 * tp, 2 * tp + fp + fn),
        "yes_ratio": percentage(tp + fp, len(pairs)),
        "count": len(pairs),
        "TP": tp,
        "FP": fp,
        "TN": tn,
        "FN": fn,
    }


def score_pope(
    questions: Path, answers: Path, llava_questions: Path | None = None
) -> dict[str, Any]:
    """Score the answers to one split of POPE.

    Args:
        questions: POPE's label lines, coco_pope_SPLIT.json.
        answers: LLaVA's answer lines, in the same order.
        llava_questions: LLaVA's question lines of all splits; then only the answers to those of
            this split's category count. The split's name is the end of the name of `questions`.

    Returns:
        As `pope_metrics`.

    Raises:
        ScoreInputError: files of another format, another number of answers than of labels, a
            question with two answers, or answers in another order or to another split.
    """
    labels = read_pope_labels(questions)
    given = read_answers(answers)
    by_question(given, answers)
    if llava_questions is not None:
        given = _of_split(given, llava_questions, questions.stem.rpartition("_")[2], answers)
    _check_pairs(given, labels, answers)
    return pope_metrics(
        [says_yes(answer.text) for answer in given], [label.yes for label in labels]
    )


def read_pope_labels(path: Path) -> list[PopeLabel]:
    """The label lines, in the order of the file.

    Raises:
        ScoreInputError: another format, or labels other than "yes" and "no".
    """
    labels, wrong = [], []
    for number, line in read_lines(path):
        key, question = identifier(line.get("question_id")), line.get("text")
        if key is None or not isinstance(question, str) or line.get("label") not in ("yes", "no"):
            wrong.append(f"line {number}")
        else:
            yes = line["label"] == "yes"
            labels.append(PopeLabel(line=number, question_id=key, question=question, yes=yes))
    if wrong:
        expected = '"question_id", "text" and "label" ("yes" or "no")'
        raise ScoreInputError(path, f"expected {expected}; not so in {counted(wrong, 'line')}")
    return labels


def _of_split(answers: list[Answer], questions: Path, split: str, path: Path) -> list[Answer]:
    """The answers to the questions of one category, as LLaVA's evaluator picks them."""
    category = {
        identifier(q.get("question_id")): q.get("category") for _, q in read_lines(questions)
    }
    unknown = [f"line {a.line}" for a in answers if a.question_id not in category]
    if unknown:
        raise ScoreInputError(
            path, f"no question of {printable(questions)} for {counted(unknown, 'answer')}"
        )
    picked = [answer for answer in answers if category[answer.question_id] == split]
    if not picked:
        known = listed(sorted({str(name) for name in category.values()}))
        raise ScoreInputError(questions, f"no answer to the category {split!r}; it has {known}")
    return picked


def _check_pairs(answers: Sequence[Answer], labels: Sequence[PopeLabel], path: Path) -> None:
    """Raise unless the n-th answer belongs to the n-th label, as far as prompts and ids tell."""
    if len(answers) != len(labels):
        raise ScoreInputError(
            path,
            f"{len(answers)} answers for {len(labels)} labels; they are paired line by line. For "
            "a file with the answers to all splits, name LLaVA's question lines, too",
        )
    pairs = list(zip(answers, labels, strict=True))
    expected = [_spelled(label.question) for label in labels]
    asked = [_spelled(answer.prompt.partition("\n")[0]) for answer in answers]
    known = set(expected)
    other = [
        f"line {answer.line} answers {prompt!r}, line {label.line} asks {question!r}"
        for (answer, label), prompt, question in zip(pairs, asked, expected, strict=True)
        if prompt != question and prompt in known
    ]
    if other:
        message = "answers to another split or in another order"
        raise ScoreInputError(path, f"{message}: {counted(other, 'pair')}")
    strange = [
        f"line {answer.line} ({answer.question_id}, not {label.question_id})"
        for answer, label in pairs
        if answer.question_id != label.question_id
    ]
    if strange and not (asked == expected and _same_order(pairs)):
        message = "the question ids are in another order or not those of the labels"
        raise ScoreInputError(path, f"{message}: {counted(strange, 'answer')}")


def _same_order(pairs: Sequence[tuple[Answer, PopeLabel]]) -> bool:
    """Whether both sides' ids, as numbers, rank the lines alike."""
    try:
        theirs = [int(answer.question_id) for answer, _ in pairs]
        ours = [int(label.question_id) for _, label in pairs]
    except ValueError:
        return False
    places = range(len(pairs))
    return sorted(places, key=theirs.__getitem__) == sorted(places, key=ours.__getitem__)


def _spelled(question: str) -> str:
    """The question without the misspelling that POPE's first release had."""
    return question.strip().replace("imange", "image")
