"""Questions on images, asked of a LLaVA with its own prompts: GQA, TextVQA, POPE, VQAv2, ..."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from PIL import Image

from radio_core.data.images import SAFE_FORMATS, UnreadableImage, load_rgb, printable
from radio_core.models.fingerprint import files_fingerprint
from radio_eval.data.answers import Answer, Answers
from radio_eval.data.vqa import VqaData, VqaQuestion, find_vqa_data, read_vqa_questions
from radio_eval.report.vqa import vqa_sections
from radio_eval.results import Json, Records, Skipped
from radio_eval.runner import Context, Task
from radio_eval.scores.vqa import Benchmark, judge
from radio_eval.scores.vqa_benchmarks import read_benchmark
from radio_llava.answering import Answerer, Query, load_answerer

MAX_NEW_TOKENS = 128
"""LLaVA's own limit of an answer."""
_CHARACTERS_A_TOKEN = 4  # a guess that is good enough to put questions of like length together

Faults = dict[int, str]
"""Place of a question -> why it has no answer."""


@dataclass(frozen=True, kw_only=True)
class Vqa(Task):
    """Answers of a LLaVA to the questions of a benchmark (GQA, TextVQA, POPE, VQAv2, ScienceQA).

    --model is the directory of a LLaVA: what its training wrote, or a transformers LLaVA with its
    processor. Give --data, or the files by themselves. The answers are written as they come: a run
    that was interrupted goes on where it stopped when it is started again. Under torchrun the
    processes share the questions; the result is the same.
    """

    task: Literal["gqa", "textvqa", "pope", "vqav2", "scienceqa"]
    """Which questions, and how they are scored."""
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
    """Folder below which the questions name their images, in place of that of --data."""
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
    overwrite: bool = False
    """Begin anew where --answers holds answers."""

    name: ClassVar[str] = "vqa"
    title: ClassVar[str] = "Visual questions"
    headline: ClassVar[str] = "accuracy"
    needs: ClassVar[frozenset[str]] = frozenset({"chat"})
    aside: ClassVar[frozenset[str]] = frozenset(
        {"answers", "data", "questions", "images", "annotations", "problems", "splits", "base"}
        | {"batch_size", "overwrite"}
    )

    def __post_init__(self) -> None:
        limit = 1 if self.limit is None else self.limit
        if min(self.batch_size, self.max_new_tokens, limit) < 1:
            raise ValueError("batch size, new tokens and limit must be at least 1")
        if self.data is None and (self.questions is None or self.images is None):
            raise ValueError("name --data DIR, or --questions FILE and --images DIR")
        names = ("questions", "annotations", "problems", "splits")
        given = [f"--{name}" for name in names if getattr(self, name)]
        if self.data is not None and given:
            raise ValueError(f"--data finds all files: leave out {', '.join(given)}, or --data")

    @cached_property
    def files(self) -> VqaData:
        """The benchmark's files; raises ValueError where they are not there or do not fit."""
        if self.data is not None:
            found = find_vqa_data(self.task, self.data, self.split)
            return found if self.images is None else replace(found, images=self.images)
        assert self.questions is not None
        assert self.images is not None
        return VqaData(
            benchmark=self.task,
            questions=self.questions,
            images=self.images,
            annotations=self.annotations,
            problems=self.problems,
            splits=self.splits,
            split=self.split or "test",
        )

    def open_model(self, source: str, device: torch.device) -> Answerer:
        """See `Task`; a LLaVA's directory."""
        return load_answerer(Path(source), base=self.base, conv_mode=self.conv_mode, device=device)

    def data_identity(self) -> Json:
        """See `Task`."""
        files = self.files
        labels = [*files.annotations, *filter(None, (files.problems, files.splits))]
        return {
            "questions": files_fingerprint(files.questions),
            "labels": {path.name: files_fingerprint(path) for path in labels},
            "images": str(files.images.resolve()),
        }

    def run(self, model: Answerer, context: Context) -> Iterator[tuple[str, float | None]]:
        """See `Task`; the scores of `radio score TASK`, "unanswered" and mean "image_tokens"."""
        files, processes = self.files, context.processes
        if not files.images.is_dir():
            raise ValueError(f"no folder of images: {printable(files.images)}")
        everything = read_vqa_questions(files.questions, self.task)
        asked = everything[: self.limit]
        benchmark: Benchmark | None = None
        if files.is_labelled:  # read now: a long run shall not end in files of another format
            benchmark = read_benchmark(files)
            benchmark.ask(asked, whole=len(asked) == len(everything))
        settings = {
            "task": self.task,
            "model": model.name,
            **model.settings,
            "questions": files_fingerprint(files.questions),
            "images": str(files.images.resolve()),
            "max_new_tokens": self.max_new_tokens,
        }

        def place_of(record: Json) -> int:
            place: int = record["metadata"]["place"]
            key = (everything[place].question_id, everything[place].prompt)
            if key != (record["question_id"], record["prompt"]) or not isinstance(
                record["text"], str
            ):
                raise ValueError("it answers none of the questions")
            return place

        with Records(
            self.answers, settings, processes, overwrite=self.overwrite, check=place_of
        ) as records:
            done = {place_of(record) for record in records.found}
            faults, tokens = self._ask_all(model, asked, done, records, context)
            gathered = processes.gather(faults, patient=True)
            said = {place_of(record): record["text"] for record in records.merge(place_of)}
        answers = [
            Answer(
                line=place + 1, question_id=asked[place].key, text=text, prompt=asked[place].prompt
            )
            for place, text in said.items()
            if place < len(asked)
        ]
        why = {place: reason for part in gathered for place, reason in part.items()}
        missing = [place for place in range(len(asked)) if place not in said]
        context.skipped["questions"] = Skipped(
            {asked[place].name: why.get(place, "not asked") for place in missing}
        )
        context.record["settings"] = settings
        scores: Json = {"accuracy": None, "count": len(asked)}
        if benchmark is None:
            context.note("not scored: the right answers are not known")
        else:
            try:
                scores = benchmark.score(Answers(path=self.answers, said=answers))
                context.show(lambda: vqa_sections(judge(benchmark, said), files.images))
            except ValueError as error:
                context.unscored = str(error)
        yield from _flat(scores)
        yield "unanswered", len(missing)
        yield "image_tokens", sum(tokens) / len(tokens) if tokens else None

    def _ask_all(
        self,
        model: Answerer,
        asked: Sequence[VqaQuestion],
        done: set[int],
        records: Records,
        context: Context,
    ) -> tuple[Faults, list[int]]:
        """Ask this process's share; returns why questions got no answer, and image tokens."""
        folder = self.files.images
        sizes, faults = _image_sizes(asked, folder, context)
        tokens = {place: model.image_tokens(*size) for place, size in sizes.items()}
        lengths = {
            place: (tokens.get(place) or 0) + len(question.prompt) // _CHARACTERS_A_TOKEN
            for place, question in enumerate(asked)
            if place not in faults and place not in done
        }
        # the longest first: memory that is short shows soon
        places = sorted(lengths, key=lambda place: (-lengths[place], place))
        starts = range(0, len(places), self.batch_size)
        batches = [places[start : start + self.batch_size] for start in starts]
        share = context.processes.share(batches)
        total, count = sum(map(len, share)), 0
        for batch in share:
            queries: dict[int, Query] = {}
            for place in batch:
                name = asked[place].image
                try:
                    # stored pixels, as LLaVA's own training and evaluation read them
                    pictures = (load_rgb(folder / name, upright=False),) if name else ()
                    queries[place] = Query(text=asked[place].prompt, images=pictures)
                except UnreadableImage as error:
                    faults[place] = _fault(error)
            said = _ask(model, [*queries.values()], self.max_new_tokens)
            for place, text in zip(queries, said, strict=True):
                if isinstance(text, ValueError):
                    faults[place] = f"refused by the model: {' '.join(str(text).split())}"
                    continue
                records.append(
                    {
                        "question_id": asked[place].question_id,
                        "prompt": asked[place].prompt,
                        "text": text,
                        "answer_id": uuid.uuid4().hex,
                        "model_id": model.name,
                        "metadata": {"place": place},
                    }
                )
            count += len(batch)
            context.progress("questions", count, total)
        return faults, [count for count in tokens.values() if count is not None]


def _ask(
    answerer: Answerer, queries: Sequence[Query], max_new_tokens: int
) -> list[str | ValueError]:
    """The answers; where one query makes its batch fail, the others are asked by themselves."""
    if not queries:
        return []
    try:
        return [*answerer.answers(queries, max_new_tokens)]
    except ValueError as error:
        if len(queries) == 1:
            return [error]
    return [said for query in queries for said in _ask(answerer, [query], max_new_tokens)]


def _image_sizes(
    questions: Sequence[VqaQuestion], folder: Path, context: Context
) -> tuple[dict[int, tuple[int, int]], Faults]:
    """(height, width) of the images that are there, and the questions that cannot be asked."""
    size_of = cache(lambda name: _image_size(folder / name))
    sizes: dict[int, tuple[int, int]] = {}
    faults: Faults = {}
    for place, question in enumerate(questions):
        if question.fault:
            faults[place] = question.fault
        elif question.image:
            found = size_of(question.image)
            if isinstance(found, str):
                faults[place] = found
            else:
                sizes[place] = found
        context.progress("images", place + 1, len(questions))
    return sizes, faults


def _image_size(path: Path) -> tuple[int, int] | str:
    """Height and width from the head of a file alone; a string says why there are none."""
    try:
        if path.is_file():
            with Image.open(path, formats=SAFE_FORMATS) as image:
                return image.height, image.width
    except Exception:  # decoders raise nearly everything; `load_rgb` says what it means
        pass
    try:
        whole = load_rgb(path, upright=False)
    except UnreadableImage as error:
        return _fault(error)
    return whole.height, whole.width


def _fault(error: UnreadableImage) -> str:
    kind, _, detail = error.reason.partition(": ")
    return f"{kind}: {printable(error.path.name)}{', ' if detail else ''}{detail}"


def _flat(scores: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """Scores within scores under names with a dot: "random.f1", "number"."""
    for name, value in scores.items():
        if isinstance(value, Mapping):
            yield from _flat(value, "" if name == "splits" else f"{name}.")
        else:
            yield f"{prefix}{name}", value
