"""Score answers to questions on images: radio score {gqa,textvqa,pope,vqav2,scienceqa}."""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from radio_eval.data.answers import Json, identifier, read_answers, read_lines
from radio_eval.results import write_whole
from radio_eval.scores.vqa import Benchmark
from radio_eval.scores.vqa_benchmarks import Gqa, Pope, ScienceQa, TextVqa, Vqav2


@dataclass(frozen=True, kw_only=True)
class VqaScoreOptions(ABC):
    """What every scorer of answers takes."""

    answers: Path
    """LLaVA's answers, one JSON object a line with question_id, prompt and text."""
    json: Path | None = None
    """File for the result; all scores are percentages."""

    @abstractmethod
    def benchmark(self) -> Benchmark:
        """The right answers."""

    def scores(self) -> Json:
        """Read the files and return the scores in percent, with "accuracy" and "count"."""
        return self.benchmark().score(read_answers(self.answers))


@dataclass(frozen=True, kw_only=True)
class GqaScoreOptions(VqaScoreOptions):
    """GQA: exact equality after lower case and without full stops at the end."""

    questions: Path
    """GQA's questions with answers (testdev_balanced_questions.json)."""

    def benchmark(self) -> Benchmark:
        """See `VqaScoreOptions`."""
        return Gqa(self.questions)


@dataclass(frozen=True, kw_only=True)
class TextVqaScoreOptions(VqaScoreOptions):
    """TextVQA: soft accuracy against ten people's answers, all normalised."""

    annotations: Path
    """TextVQA's annotations (TextVQA_0.5.1_val.json)."""

    def benchmark(self) -> Benchmark:
        """See `VqaScoreOptions`."""
        return TextVqa(self.annotations)


@dataclass(frozen=True, kw_only=True)
class PopeScoreOptions(VqaScoreOptions):
    """POPE: yes or no, labels and answers paired line by line."""

    questions: Path
    """POPE's labels of one split (coco_pope_random.json)."""
    llava_questions: Path | None = None
    """LLaVA's question lines (llava_pope_test.jsonl), if the answers are to all splits at once."""

    def benchmark(self) -> Benchmark:
        """See `VqaScoreOptions`."""
        if self.llava_questions is None:
            return Pope(self.questions)
        lines = (line for _, line in read_lines(self.llava_questions))
        splits = {str(identifier(x.get("question_id"))): str(x.get("category")) for x in lines}
        return Pope(self.questions, splits=splits)

    def scores(self) -> Json:
        """See `VqaScoreOptions`; of the one split."""
        scores = super().scores()
        return next(iter(scores.get("splits", {}).values()), scores)


@dataclass(frozen=True, kw_only=True)
class Vqav2ScoreOptions(VqaScoreOptions):
    """VQAv2: the official evaluator on what goes to the server (normalised, '' for missing)."""

    questions: Path
    """VQAv2's questions, or LLaVA's question lines for them (.jsonl)."""
    annotations: Path | None = None
    """VQAv2's annotations; not needed to write a submission."""
    submission: Path | None = None
    """File to write for the evaluation server EvalAI."""
    normalise: bool = True
    """Normalise the answers first, as LLaVA does before it uploads."""

    def __post_init__(self) -> None:
        if self.annotations is None and self.submission is None:
            raise ValueError("nothing to do: name --annotations, --submission or both")

    def benchmark(self) -> Vqav2:
        """See `VqaScoreOptions`."""
        return Vqav2(self.questions, self.annotations, normalise=self.normalise)

    def scores(self) -> Json:
        """See `VqaScoreOptions`; writes the submission."""
        benchmark, answers = self.benchmark(), read_answers(self.answers)
        scores = benchmark.score(answers)
        if self.submission is not None:
            write_whole(self.submission, json.dumps(benchmark.submission(answers)))
        return scores


@dataclass(frozen=True, kw_only=True)
class ScienceQaScoreOptions(VqaScoreOptions):
    """ScienceQA: the letter of the right choice; a missing answer is wrong."""

    problems: Path
    """ScienceQA's problems.json."""
    splits: Path
    """ScienceQA's pid_splits.json."""
    split: str = "test"
    """Name of a list in it."""

    def benchmark(self) -> Benchmark:
        """See `VqaScoreOptions`."""
        return ScienceQa(self.problems, self.splits, self.split)


VQA_SCORES: dict[str, type[VqaScoreOptions]] = {
    "gqa": GqaScoreOptions,
    "textvqa": TextVqaScoreOptions,
    "pope": PopeScoreOptions,
    "vqav2": Vqav2ScoreOptions,
    "scienceqa": ScienceQaScoreOptions,
}
