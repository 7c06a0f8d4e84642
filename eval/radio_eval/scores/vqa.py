"""What an answer to a question on an image is worth, as the field's own evaluators say.

VQAv2 and TextVQA normalise answers before they are compared. Both change an answer in the same
three steps; TextVQA's form ("m4c") first lowers the case, drops commas and question marks and sets
"'s" apart, so that "it's" becomes "it 's" and "yes,no" becomes "yesno".
"""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from radio_eval.data.answers import Answers, Json
from radio_eval.data.vqa import VqaQuestion

LETTERS = "ABCDE"
"""Of ScienceQA's choices."""

_OCR = "Reference OCR token:"
_NO = frozenset({"No", "no", "not"})
_LETTER_SENTENCE = re.compile(r"The answer is ([A-Z]).")

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32  # the evaluators pass re.UNICODE, which is 32, where the count belongs
_COMMA_IN_NUMBER = re.compile(r"\d,\d")

_ARTICLES = frozenset({"a", "an", "the"})
_DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_NUMBERS = {word: str(number) for number, word in enumerate(_DIGITS)} | {"none": "0"}
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
    mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll
    you're you've
"""
_SPELLING = {
    word[:place] + word[place + 1 :]: word  # without its first, its second, ... apostrophe
    for word in _CONTRACTIONS.split()
    for place, character in enumerate(word)
    if character == "'"
} | {"somebody'd": "somebodyd"}  # the evaluators have this one the wrong way round


def one_line(answer: str) -> str:
    """The answer with blanks for tabs and line ends, and none around it: VQAv2's first step."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def vqa_normalise(answer: str) -> str:
    """An answer as the official VQAv2 evaluator normalises it ("The cat." -> "cat")."""
    return _words(_without_punctuation(one_line(answer)))


def m4c_normalise(answer: str) -> str:
    """An answer as TextVQA's evaluator normalises it, and LLaVA before it uploads to VQAv2."""
    lowered = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return vqa_normalise(lowered)


def soft_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """How far people agree with a prediction: 3 of 10 give 0.9, 2 give 0.6, 1 gives 0.3.

    Each answer is left out once; the prediction then scores min(matches among the others / 3, 1),
    and these scores are averaged.
    """
    matches = sum(answer == prediction for answer in answers)
    match_left_out = matches * min((matches - 1) / 3, 1.0)
    other_left_out = (len(answers) - matches) * min(matches / 3, 1.0)
    return (match_left_out + other_left_out) / len(answers)


def _without_punctuation(text: str) -> str:
    """Marks go where a blank is beside one of their kind or a number has a comma; else a blank."""
    number = _COMMA_IN_NUMBER.search(text) is not None
    changed = text
    for mark in _PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        changed = changed.replace(mark, "" if beside_blank or number else " ")
    return _PERIOD.sub("", changed, count=_MAX_PERIODS)


def _words(text: str) -> str:
    """Lower case, digits for number words, no articles, contractions with their apostrophes."""
    numbers = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_SPELLING.get(word, word) for word in numbers if word not in _ARTICLES)


def percentage(part: float, whole: int) -> float | None:
    """100 * part / whole; None of nothing."""
    return 100.0 * part / whole if whole else None


def yes_no_scores(said: Sequence[bool], labels: Sequence[bool]) -> dict[str, Any]:
    """Scores of yes (True, the positive class) and no in percent, None of nothing; and counts."""
    pairs = list(zip(said, labels, strict=True))
    tp, fp = pairs.count((True, True)), pairs.count((True, False))
    tn, fn = pairs.count((False, False)), pairs.count((False, True))
    return {
        "accuracy": percentage(tp + tn, len(pairs)),
        "precision": percentage(tp, tp + fp),
        "recall": percentage(tp, tp + fn),
        "f1": percentage(2 * tp, 2 * tp + fp + fn),
        "yes_ratio": percentage(tp + fp, len(pairs)),
        "count": len(pairs),
        **{"TP": tp, "FP": fp, "TN": tn, "FN": fn},
    }


def gqa_prediction(text: str) -> str:
    """What words count as in GQA: lower case, without full stops at the end; else unforgiven."""
    return text.rstrip(".").lower()


def textvqa_question(prompt: str) -> str:
    """The question of a prompt, in lower case.

    Prompts: "OCR tokens: ... Question: Q Short answer:", or Q and the request for a short answer on
    a line each, with a line "Reference OCR token: ..." before or after Q.
    """
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: "):
        question, end, _ = prompt.partition("Question: ")[2].partition(" Short answer:")
        if end:
            return question.lower()
    elif len(lines) == 2 or (len(lines) == 3 and f"{_OCR} " in prompt):
        return lines[1 if len(lines) == 3 and lines[0].startswith(_OCR) else 0].lower()
    raise ValueError(
        f"no TextVQA prompt ({len(lines)} lines): expected the question, perhaps a line "
        f'"{_OCR} ...", and the request for a short answer'
    )


def textvqa_accuracy(prediction: str, people: Sequence[str]) -> float:
    """How far ten people agree with a prediction, in [0, 1]; all answers are normalised."""
    return soft_accuracy(m4c_normalise(prediction), [m4c_normalise(answer) for answer in people])


def says_yes(text: str) -> bool:
    """Whether a model's words count as yes in POPE: all do without "No", "no" or "not".

    Only the text before the first full stop is read, without commas, split at blanks. "NO", "No!"
    and "" count as yes.
    """
    words = text.split(".", maxsplit=1)[0].replace(",", "").split(" ")
    return _NO.isdisjoint(words)


def vqa_accuracy(prediction: str, people: Sequence[str]) -> float:
    """The official accuracy of one prediction in VQAv2, in [0, 1].

    Prediction and answers are normalised only where the answers are not all the same: "Yes" against
    ten times "yes" scores 0. So LLaVA normalises its answers before it uploads them.
    """
    said, theirs = one_line(prediction), [one_line(answer) for answer in people]
    if len(set(theirs)) > 1:
        said, theirs = vqa_normalise(said), [vqa_normalise(answer) for answer in theirs]
    return soft_accuracy(said, theirs)


def parse_letter(text: str) -> str | None:
    """The letter that a model's words choose in ScienceQA; None where they choose none clearly.

    "B", "B. because ..." and one "The answer is B." do; "B." and "b" do not.
    """
    if text in tuple(LETTERS):
        return text
    if text[1:3] == ". " and text[0] in LETTERS:
        return text[0]
    sentences = _LETTER_SENTENCE.findall(text)
    return sentences[0] if len(sentences) == 1 else None


Truth = tuple[str, Callable[[str], float]]
"""The right answer (of several the most frequent), and how far words agree with it, in [0, 1]."""


class Benchmark(ABC):
    """Right answers, read from files; `questions` are those asked, once `ask` was called."""

    questions: Sequence[VqaQuestion] = ()

    def ask(self, questions: Sequence[VqaQuestion], *, whole: bool = True) -> None:
        """Expect answers to these questions; unless they are the `whole`, forget the others."""
        self.questions = questions
        if not whole:
            self._forget({question.key for question in questions})

    @abstractmethod
    def _forget(self, but: set[str]) -> None:
        """Forget the right answers to questions that have none of these ids."""

    @abstractmethod
    def score(self, answers: Answers) -> Json:
        """Score answers by the benchmark's protocol: "accuracy" in percent, "count", and more."""

    @abstractmethod
    def truth(self, question: VqaQuestion) -> Truth | None:
        """The right answer to one of `questions`; None for one that does not count."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A question, what was said, the right answer, and how far they agree, in [0, 1]."""

    question: VqaQuestion
    said: str
    truth: str
    score: float


def judge(benchmark: Benchmark, said: Mapping[int, str]) -> list[Judged]:
    """The questions asked that have a right answer and one in `said` (by place), in their order."""
    judged = []
    for place, question in enumerate(benchmark.questions):
        truth = benchmark.truth(question) if place in said else None
        if truth is not None:
            right, agreement = truth
            score = agreement(said[place])
            judged.append(Judged(question=question, said=said[place], truth=right, score=score))
    return judged


def one_answer(right: str, read: Callable[[str], str | None]) -> Truth:
    """The truth of a question with one right answer, which words are when `read` says so."""
    return right, lambda said: float(read(said) == right)


def several_answers(people: list[str], accuracy: Callable[[str, list[str]], float]) -> Truth:
    """The truth of a question that several people answered."""
    return Counter(people).most_common(1)[0][0], lambda said: accuracy(said, people)
