"""GQA, TextVQA, POPE, VQAv2 and ScienceQA: their right answers, and how a model's are scored."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from radio_eval.data.answers import (
    Answer,
    Answers,
    Json,
    ScoreInputError,
    counted,
    entries,
    identifier,
    listed,
    parsed,
    read_lines,
    read_mapping,
    refuse,
    unique,
    words,
)
from radio_eval.data.vqa import VqaData, VqaQuestion
from radio_eval.scores.vqa import (
    LETTERS,
    Benchmark,
    Truth,
    gqa_prediction,
    m4c_normalise,
    one_answer,
    parse_letter,
    percentage,
    says_yes,
    several_answers,
    textvqa_accuracy,
    textvqa_question,
    vqa_accuracy,
    yes_no_scores,
)
from radio_llava.images import IMAGE

ANSWERERS = 10
"""People who answered each question of TextVQA."""
_POPE_MEANS = ("accuracy", "precision", "recall", "f1", "yes_ratio")


class Gqa(Benchmark):
    """GQA: exact equality with the one right answer; "unbalanced" questions do not count.

    A question without an answer is an error, as in the official evaluator.
    """

    def __init__(self, path: Path) -> None:
        document = read_mapping(path, "{question id: question}")

        def label(question: Json) -> tuple[str, str, bool]:
            types = question.get("types")
            kind = (types if isinstance(types, Mapping) else question).get("structural")
            balanced = {True: True, False: False}[question["isBalanced"]]
            return words(question["answer"]), kind if isinstance(kind, str) else "", balanced

        expected = '"answer" (string) and "isBalanced" (true or false)'
        read = parsed(path, document.items(), label, expected, "question")
        labels = dict(zip(document, read, strict=True))
        # id -> (right answer, structural type)
        self.balanced = {k: (text, kind) for k, (text, kind, counts) in labels.items() if counts}
        self.unbalanced = labels.keys() - self.balanced.keys()
        if not self.balanced:
            raise ScoreInputError(path, f"no balanced questions, {len(labels)} others")

    def score(self, answers: Answers) -> Json:
        """See `Benchmark`."""
        found, missing = answers.pick(self.balanced)
        refuse(answers.path, missing, "question", "no answer to")
        right: dict[str, list[bool]] = defaultdict(list)
        for key, (text, kind) in self.balanced.items():
            right[kind].append(gqa_prediction(found[key].text) == text)
        opened = right["query"]
        binary = [each for kind in right.keys() - {"", "query"} for each in right[kind]]
        return {
            "accuracy": percentage(sum(map(sum, right.values())), len(self.balanced)),
            "binary": percentage(sum(binary), len(binary)),
            "open": percentage(sum(opened), len(opened)),
            "count": len(self.balanced),
            "unbalanced": len(self.unbalanced),
            "other_answers": len(answers.said) - len(found),
        }

    def _forget(self, but: set[str]) -> None:
        self.balanced = {key: label for key, label in self.balanced.items() if key in but}
        self.unbalanced &= but

    def truth(self, question: VqaQuestion) -> Truth | None:
        """See `Benchmark`."""
        text, _ = self.balanced.get(question.key, ("", ""))
        return one_answer(text, gqa_prediction) if text else None


TextVqaKey = tuple[str, str]
"""Image id and question in lower case."""


class TextVqa(Benchmark):
    """TextVQA: the soft accuracy of normalised answers against ten people's.

    LLaVA's question ids are image ids here, and an image has several questions: answers and people
    are joined by image and question. Where a question is asked twice of an image, people's later
    answers count, as in LLaVA's evaluator.

    Args:
        path: TextVQA's annotations (TextVQA_0.5.1_val.json).
    """

    def __init__(self, path: Path) -> None:
        def label(entry: Json) -> tuple[TextVqaKey, list[str]]:
            people = [words(answer) for answer in entry["answers"]]
            if len(people) != ANSWERERS:
                raise ValueError(f"{len(people)} answers")
            return (identifier(entry["image_id"]), words(entry["question"]).lower()), people

        expected = f'"image_id", "question" and {ANSWERERS} "answers"'
        labels = parsed(path, entries(path, "data"), label, expected, "question")
        self.people, self.asked = dict(labels), Counter(key for key, _ in labels)

    def score(self, answers: Answers) -> Json:
        """See `Benchmark`."""

        def key(answer: Answer) -> TextVqaKey:
            try:
                return answer.question_id, textvqa_question(answer.prompt)
            except ValueError as error:
                raise ScoreInputError(answers.path, f"line {answer.line}: {error}") from None

        pairs = [(answer, key(answer)) for answer in answers.said]
        times = Counter(key for _, key in pairs)
        strange = [
            f"line {a.line} (image {a.question_id})" for a, k in pairs if k not in self.people
        ]
        repeated = [" ".join(key) for key in times - self.asked]
        missing = [" ".join(key) for key in self.asked - times]
        refuse(answers.path, strange, "answer", "asked is nothing like")
        refuse(answers.path, repeated, "question", "answered more than once:")
        refuse(answers.path, missing, "question", "no answer to")
        total = sum(textvqa_accuracy(answer.text, self.people[key]) for answer, key in pairs)
        return {"accuracy": percentage(total, len(pairs)), "count": len(pairs)}

    def _forget(self, but: set[str]) -> None:
        self.asked &= Counter((q.key, textvqa_question(q.prompt)) for q in self.questions)

    def truth(self, question: VqaQuestion) -> Truth | None:
        """See `Benchmark`."""
        people = self.people.get((question.key, textvqa_question(question.prompt)))
        return several_answers(people, textvqa_accuracy) if people else None


class PopeLabel(NamedTuple):
    """A line of POPE; the question is without the request for a short answer."""

    line: int
    question_id: str
    question: str
    yes: bool


class Pope(Benchmark):
    """POPE: yes or no, labels (a file a split) and answers paired line by line within each split.

    Ids cannot pair them, because LLaVA's question file numbers the three splits anew; but ids and
    prompts show when the order is not the same. `splits` (question id -> split) is for answers to
    several.
    """

    def __init__(self, *paths: Path, splits: Mapping[str, str] | None = None) -> None:
        def label(numbered: tuple[int, Json]) -> PopeLabel:
            number, line = numbered
            return PopeLabel(
                line=number,
                question_id=identifier(line["question_id"]),
                question=words(line["text"]),
                yes={"yes": True, "no": False}[line["label"]],
            )

        expected = '"question_id", "text" and "label" ("yes" or "no")'
        self.paths, self.splits = paths, splits
        self.labels: dict[str, list[PopeLabel]] = {}
        for path in paths:
            lines = [(f"line {number}", (number, line)) for number, line in read_lines(path)]
            split = path.stem.rpartition("_")[2]
            self.labels[split] = parsed(path, lines, label, expected, "line")

    def ask(self, questions: Sequence[VqaQuestion], *, whole: bool = True) -> None:
        """See `Benchmark`."""
        self.splits = {question.key: question.category for question in questions}
        asked = sorted(set(self.splits.values()))
        if len(asked) == len(self.labels) == 1:  # then its name does not matter
            self.labels = dict(zip(asked, self.labels.values(), strict=True))
        missing = [split for split in asked if split not in self.labels]
        if missing:
            raise ScoreInputError(
                self.paths[0].parent,
                f"no label file for {counted(missing, 'category')}; there are those of "
                f"{listed(self.labels)}",
            )
        self.labels = {split: self.labels[split] for split in asked}
        super().ask(questions, whole=whole)
        rest = {split: iter(labels) for split, labels in self.labels.items()}
        self._label_of = {q.key: next(rest[q.category], None) for q in questions}

    def _forget(self, but: set[str]) -> None:
        times = Counter(question.category for question in self.questions)
        self.labels = {split: labels[: times[split]] for split, labels in self.labels.items()}

    def score(self, answers: Answers) -> Json:
        """See `Benchmark`."""
        answers.pick()
        if self.splits is None:
            (labels,) = self.labels.values()
            return _score_pope(labels, answers)
        strange = [f"line {a.line}" for a in answers.said if a.question_id not in self.splits]
        refuse(answers.path, strange, "answer", "no question for")
        splits: dict[str, Json] = {}
        for split, labels in self.labels.items():
            own = [a for a in answers.said if self.splits[a.question_id] == split]
            if not own:
                known = listed(sorted(set(self.splits.values())))
                raise ScoreInputError(
                    answers.path, f"no answer to the category {split!r}; it has {known}"
                )
            splits[split] = _score_pope(labels, Answers(path=answers.path, said=own))
        means: Json = {}
        for name in _POPE_MEANS:
            values = [scores[name] for scores in splits.values() if scores[name] is not None]
            means[name] = sum(values) / len(values) if values else None
        return {**means, "count": sum(x["count"] for x in splits.values()), "splits": splits}

    def truth(self, question: VqaQuestion) -> Truth | None:
        """See `Benchmark`."""
        label = self._label_of.get(question.key)
        if label is None:
            return None
        return one_answer("yes" if label.yes else "no", lambda x: "yes" if says_yes(x) else "no")


def _score_pope(labels: Sequence[PopeLabel], answers: Answers) -> Json:
    said = answers.said
    if len(said) != len(labels):
        raise ScoreInputError(
            answers.path,
            f"{len(said)} answers for {len(labels)} labels; they are paired line by line. For a "
            "file with the answers to all splits, name LLaVA's question lines, too",
        )
    # POPE's first release misspelt it
    asked = [a.prompt.partition("\n")[0].strip().replace("imange", "image") for a in said]
    expected = [label.question.strip().replace("imange", "image") for label in labels]
    known = set(expected)
    other = [
        f"line {answer.line} answers {prompt!r}, line {label.line} asks {question!r}"
        for answer, label, prompt, question in zip(said, labels, asked, expected, strict=True)
        if prompt != question and prompt in known
    ]
    refuse(answers.path, other, "pair", "answers to another split or in another order:")
    strange = [
        f"line {answer.line} ({answer.question_id}, not {label.question_id})"
        for answer, label in zip(said, labels, strict=True)
        if answer.question_id != label.question_id
    ]
    if strange and not (asked == expected and _ranks(said) == _ranks(labels) != []):
        message = "the question ids are in another order or not those of the labels:"
        refuse(answers.path, strange, "answer", message)
    return yes_no_scores([says_yes(a.text) for a in said], [label.yes for label in labels])


def _ranks(lines: Sequence[Answer] | Sequence[PopeLabel]) -> list[int]:
    """The places of lines in the order of their ids as numbers; empty where one is none."""
    try:
        ids = [int(line.question_id) for line in lines]
    except ValueError:
        return []
    return sorted(range(len(ids)), key=ids.__getitem__)


class Vqav2(Benchmark):
    """VQAv2: the official evaluator on what LLaVA would upload, normalised and "" for missing.

    `questions` are VQAv2's own or LLaVA's question lines (.jsonl). Without `normalise` answers are
    not brought to TextVQA's form first, as LLaVA does before it uploads.
    """

    def __init__(
        self, questions: Path, annotations: Path | None = None, *, normalise: bool = True
    ) -> None:
        if questions.suffix == ".jsonl":
            asked = [(f"line {number}", line) for number, line in read_lines(questions)]
        else:
            asked = entries(questions, "questions")

        def key(entry: Json) -> tuple[str, int | str]:
            return identifier(entry["question_id"]), entry["question_id"]

        ids = parsed(questions, asked, key, '"question_id"', "question")
        self.ids = unique(questions, ids, "asked more than once")  # as text -> as the file has it
        self.annotations, self.normalise = annotations, normalise
        self.labels: dict[str, tuple[list[str], str]] = {}
        if annotations is None:
            return

        def label(entry: Json) -> tuple[str, tuple[list[str], str]]:
            people = [words(answer["answer"]) for answer in entry["answers"]]
            if not people:
                raise ValueError("no answers")
            return identifier(entry["question_id"]), (people, words(entry["answer_type"]))

        expected = '"question_id", "answer_type" and "answers" (each with "answer")'
        labelled = entries(annotations, "annotations")
        labels = parsed(annotations, labelled, label, expected, "annotation")
        self.labels = unique(annotations, labels, "annotated more than once")

    def _forget(self, but: set[str]) -> None:
        self.ids = {key: value for key, value in self.ids.items() if key in but}

    def submission(self, answers: Answers) -> list[Json]:
        """What VQAv2's server takes: {"question_id", "answer"} of each question, in their order."""
        found, _ = answers.pick(self.ids)
        texts = {k: m4c_normalise(a.text) if self.normalise else a.text for k, a in found.items()}
        return [{"question_id": x, "answer": texts.get(key, "")} for key, x in self.ids.items()]

    def score(self, answers: Answers) -> Json:
        """See `Benchmark`; without annotations only "count" and "missing"."""
        found, missing = answers.pick(self.ids)
        if self.annotations is None:
            return {"count": len(self.ids), "missing": len(missing)}
        unknown = [key for key in self.ids if key not in self.labels]
        refuse(self.annotations, unknown, "question", "no annotation of")
        by_type: dict[str, list[float]] = defaultdict(list)
        for key, entry in zip(self.ids, self.submission(answers), strict=True):
            people, kind = self.labels[key]
            by_type[kind].append(vqa_accuracy(entry["answer"], people))
        kinds = {kind: percentage(sum(x), len(x)) for kind, x in sorted(by_type.items())}
        return {
            "accuracy": percentage(sum(map(sum, by_type.values())), len(self.ids)),
            "per_answer_type": kinds,
            "count": len(self.ids),
            "missing": len(missing),
            "other_answers": len(answers.said) - len(found),
        }

    def truth(self, question: VqaQuestion) -> Truth | None:
        """See `Benchmark`."""

        def accuracy(said: str, people: Sequence[str]) -> float:
            return vqa_accuracy(m4c_normalise(said), people)

        people, _ = self.labels.get(question.key, ([], ""))
        return several_answers(people, accuracy) if people else None


class ScienceQa(Benchmark):
    """ScienceQA: the letter of the right choice; a missing answer is wrong, and without an image.

    "image_accuracy" is of the problems whose prompt has "<image>", as in LLaVA's evaluator;
    "unclear" answers choose no letter. Reads problems.json and pid_splits.json.
    """

    def __init__(self, problems: Path, splits: Path, split: str = "test") -> None:
        known = read_mapping(problems, "{problem id: problem}")
        lists = read_mapping(splits, "{split: [problem ids]}")
        if split not in lists:
            raise ScoreInputError(splits, f"no split {split!r}; it has {listed(lists)}")
        if not lists[split] or not isinstance(lists[split], list):
            raise ScoreInputError(splits, f"split {split!r} is no list of problem ids")
        numbered = ((f"number {place}", key) for place, key in enumerate(lists[split]))
        keys = parsed(splits, numbered, identifier, "problem ids", "entry")
        unknown = [key for key in keys if key not in known]
        refuse(problems, unknown, "problem", f"lacks, of split {split!r},")
        unique(splits, ((key, key) for key in keys), f"more than once in split {split!r}")

        def letter(problem: Json) -> str:
            choices, answer = problem["choices"], problem["answer"]
            fits = isinstance(choices, list) and 0 <= answer < len(choices) <= len(LETTERS)
            if not fits or isinstance(answer, bool):
                raise TypeError
            return LETTERS[answer]

        expected = f'"choices" (at most {len(LETTERS)}) and "answer" (index of one of them)'
        asked = ((key, known[key]) for key in keys)
        letters = parsed(problems, asked, letter, expected, "problem")
        self.letters = dict(zip(keys, letters, strict=True))

    def _forget(self, but: set[str]) -> None:
        self.letters = {key: letter for key, letter in self.letters.items() if key in but}

    def score(self, answers: Answers) -> Json:
        """See `Benchmark`."""
        found, missing = answers.pick(self.letters)
        said = {key: parse_letter(answer.text) for key, answer in found.items()}
        right = {key: letter == self.letters[key] for key, letter in said.items()}
        with_image = [right[key] for key, answer in found.items() if IMAGE in answer.prompt]
        return {
            "accuracy": percentage(sum(right.values()), len(self.letters)),
            "image_accuracy": percentage(sum(with_image), len(with_image)),
            "count": len(self.letters),
            "image_count": len(with_image),
            "missing": len(missing),
            "unclear": sum(letter is None for letter in said.values()),
            "other_answers": len(answers.said) - len(found),
        }

    def truth(self, question: VqaQuestion) -> Truth | None:
        """See `Benchmark`."""
        letter = self.letters.get(question.key)
        return one_answer(letter, parse_letter) if letter else None


def read_benchmark(data: VqaData) -> Benchmark:
    """The right answers that belong to a benchmark's files."""
    if data.benchmark == "pope":
        return Pope(*data.annotations)
    if data.benchmark == "vqav2":
        return Vqav2(data.questions, *data.annotations)
    if data.benchmark == "scienceqa":
        assert data.problems is not None
        assert data.splits is not None
        return ScienceQa(data.problems, data.splits, data.split)
    return (Gqa if data.benchmark == "gqa" else TextVqa)(*data.annotations)
