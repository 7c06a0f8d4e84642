"""Ask a LLaVA the questions of a benchmark (GQA, TextVQA, POPE, VQAv2, ScienceQA), and score."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from radio_core.cli import UsageError, parse
from radio_core.data.images import printable
from radio_eval.cli.eval_options import own_device
from radio_eval.processes import Processes, launched_processes
from radio_eval.progress import Progress, rich_progress, silent
from radio_eval.report.page import check_report_path, vqa_page
from radio_eval.report.vqa import vqa_sections
from radio_eval.runner import installed_versions
from radio_eval.vqa.answers import listed
from radio_eval.vqa.run import MAX_NEW_TOKENS, evaluate_vqa
from radio_eval.vqa.tasks import VqaData, find_vqa_data
from radio_llava.answering import load_answerer

_FILES = ("questions", "images", "annotations", "problems", "splits")


@dataclass(frozen=True, kw_only=True)
class VqaOptions:
    """Ask a LLaVA the questions of a VQA task with LLaVA's own prompts, and score its answers.

    Give --data, or the files by themselves. The answers are written as they come: a run that was
    interrupted goes on where it stopped when it is started again. Under torchrun the processes
    share the questions; the result is the same.
    """

    task: Literal["gqa", "textvqa", "pope", "vqav2", "scienceqa"]
    """Which questions, and how they are scored."""
    model: Path
    """Directory of a LLaVA: what its training wrote, or a transformers LLaVA with its processor."""
    answers: Path
    """File for the answers (JSON lines, in LLaVA's format and the order of the questions)."""
    data: Path | None = None
    """Folder vqa/ of `radio toyworld export`, or LLaVA's playground/data/eval."""
    split: str = ""
    """Of --data: a split of the toy world ("val" if empty). Else: the list in ScienceQA's
    pid_splits.json ("test" if empty)."""
    questions: Path | None = None
    """LLaVA's question lines (.jsonl), or its entries for ScienceQA (llava_test_CQM-A.json)."""
    images: Path | None = None
    """Folder below which the questions name their images."""
    annotations: tuple[Path, ...] = ()
    """The right answers: GQA's questions, TextVQA's or VQAv2's annotations, POPE's label files
    (coco_pope_random.json ...). Without them nothing is scored."""
    problems: Path | None = None
    """ScienceQA's problems.json."""
    splits: Path | None = None
    """ScienceQA's pid_splits.json."""
    base: Path | None = None
    """Language model that a LoRA or a projector was trained on."""
    conv_mode: str | None = None
    """LLaVA's name of the conversation's form; the one that fits the model by default."""
    batch_size: int = 8
    """Questions asked at once, those of like length together."""
    max_new_tokens: int = MAX_NEW_TOKENS
    """Tokens after which an answer is cut off."""
    limit: int | None = None
    """Only the first questions; all by default."""
    device: str = "auto"
    """Where the model runs, such as "cuda:1"; "auto" takes a GPU where there is one."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Begin anew where --answers holds answers."""
    json: Path | None = None
    """File for the result: scores in percent, counts, what has no answer and why, settings."""
    report: Path | None = None
    """HTML file for the result with questions and their pictures, whole in itself."""

    def __post_init__(self) -> None:
        if self.data is None and (self.questions is None or self.images is None):
            raise UsageError("name --data DIR, or --questions FILE and --images DIR")
        given = [f"--{name}" for name in _FILES if getattr(self, name)]
        if self.data is not None and given:
            raise UsageError(f"--data finds all files: leave out {', '.join(given)}, or --data")

    def files(self) -> VqaData:
        """The task's files.

        Raises:
            ValueError: they are not there, or do not fit the task.
        """
        if self.data is not None:
            return find_vqa_data(self.task, self.data, self.split)
        assert self.questions is not None
        assert self.images is not None
        return VqaData(
            task=self.task,
            questions=self.questions,
            images=self.images,
            annotations=self.annotations,
            problems=self.problems,
            splits=self.splits,
            split=self.split or "test",
        )


def main(argv: Sequence[str]) -> int:
    """Run `radio eval vqa` or `radio llava eval`; returns the exit code: 1 if nothing is scored."""
    options = parse(VqaOptions, argv, prog="radio eval vqa")
    data = options.files()
    check_report_path(options.report)
    with launched_processes() as processes:
        answerer = load_answerer(
            options.model,
            base=options.base,
            conv_mode=options.conv_mode,
            device=own_device(options.device, processes),
        )
        with _progress_of(processes) as progress:
            result = evaluate_vqa(
                answerer,
                data,
                options.answers,
                batch_size=options.batch_size,
                max_new_tokens=options.max_new_tokens,
                limit=options.limit,
                overwrite=options.overwrite,
                progress=progress,
                processes=processes,
            )
    if processes.is_first:
        _report(result, options.json)
        if options.report is not None:
            sections = vqa_sections(data, options.answers, options.limit)
            vqa_page({**result, "versions": installed_versions()}, sections).write(options.report)
            print(f"report: {printable(options.report)}")
    return 1 if "unscored" in result and data.is_labelled else 0


@contextmanager
def _progress_of(processes: Processes) -> Iterator[Progress]:
    """A progress bar at the first process, none at the others."""
    if not processes.is_first:
        yield silent
        return
    with rich_progress(Console(stderr=True)) as progress:
        yield progress


def _report(result: Mapping[str, Any], file: Path | None) -> None:
    """Print the scores and what has no answer, and write everything."""
    for name, value in result.items():
        if name not in ("settings", "skipped", "unscored"):
            print(f"{name}: {_shown(value)}")
    skipped = result["skipped"]
    if skipped["count"]:
        reasons = ", ".join(f"{count} {why}" for why, count in skipped["reasons"].items())
        print(f"no answer to {skipped['count']} questions: {reasons}", file=sys.stderr)
        print(f"they are: {listed(skipped['questions'])}", file=sys.stderr)
    if "unscored" in result:
        print(f"not scored: {result['unscored']}", file=sys.stderr)
    if file is not None:
        content = {**result, "versions": installed_versions()}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} ({_shown(part)})" for name, part in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)
