"""Score answers to questions on images: radio score {gqa,textvqa,pope,vqav2,scienceqa}."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radio_eval.vqa.gqa import score_gqa
from radio_eval.vqa.pope import score_pope
from radio_eval.vqa.scienceqa import score_scienceqa
from radio_eval.vqa.textvqa import score_textvqa
from radio_eval.vqa.vqav2 import score_vqav2, vqav2_submission


@dataclass(frozen=True, kw_only=True)
class VqaScoreOptions(ABC):
    """What every scorer of answers takes."""

    answers: Path
    """LLaVA's answers, one JSON object a line with question_id, prompt and text."""
    json: Path | None = None
    """File for the result; all scores are percentages."""

    @abstractmethod
    def scores(self) -> dict[str, Any]:
        """Read the files and return the scores in percent, with "accuracy" and "count"."""


@dataclass(frozen=True, kw_only=True)
class GqaScoreOptions(VqaScoreOptions):
    """GQA: exact equality after lower case and without full stops at the end."""

    questions: Path
    """GQA's questions with answers (testdev_balanced_questions.json)."""

    def scores(self) -> dict[str, Any]:
        """Accuracy of all, binary and open questions."""
        return score_gqa(self.questions, self.answers)


@dataclass(frozen=True, kw_only=True)
class TextVqaScoreOptions(VqaScoreOptions):
    """TextVQA: soft accuracy against ten people's answers, all normalised."""

    annotations: Path
    """TextVQA's annotations (TextVQA_0.5.1_val.json)."""

    def scores(self) -> dict[str, Any]:
        """Accuracy."""
        return score_textvqa(self.annotations, self.answers)


@dataclass(frozen=True, kw_only=True)
class PopeScoreOptions(VqaScoreOptions):
    """POPE: yes or no, labels and answers paired line by line."""

    questions: Path
    """POPE's labels of one split (coco_pope_random.json)."""
    llava_questions: Path | None = None
    """LLaVA's question lines (llava_pope_test.jsonl), if the answers are to all splits at once."""

    def scores(self) -> dict[str, Any]:
        """Accuracy, precision, recall, F1 and the share of yes."""
        return score_pope(self.questions, self.answers, self.llava_questions)


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

    def scores(self) -> dict[str, Any]:
        """Accuracy of all questions and of each answer type; writes the submission."""
        made = vqav2_submission(self.questions, self.answers, normalise=self.normalise)
        scores = {"count": len(made.entries), "missing": len(made.missing)}
        if self.annotations is not None:
            scores = score_vqav2(made, self.annotations)
        if self.submission is not None:
            made.write(self.submission)
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

    def scores(self) -> dict[str, Any]:
        """Accuracy of all problems and of those with an image."""
        return score_scienceqa(self.problems, self.splits, self.answers, self.split)


VQA_SCORES: dict[str, type[VqaScoreOptions]] = {
    "gqa": GqaScoreOptions,
    "textvqa": TextVqaScoreOptions,
    "pope": PopeScoreOptions,
    "vqav2": Vqav2ScoreOptions,
    "scienceqa": ScienceQaScoreOptions,
}
