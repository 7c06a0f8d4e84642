"""The files of the VQA benchmarks: where they are, the questions, and the right answers.

The layouts are those of the toy world's export and of LLaVA's own playground/data/eval.
"""

from dataclasses import dataclass
from pathlib import Path

from radio_core.data.images import printable
from radio_eval.data.answers import (
    Json,
    ScoreInputError,
    identifier,
    parsed,
    read_document,
    read_lines,
    unique,
    words,
)
from radio_llava.images import IMAGE

BENCHMARKS = ("gqa", "textvqa", "pope", "vqav2", "scienceqa")
SCIENCEQA_PROMPT = "Answer with the option's letter from the given choices directly."
"""LLaVA's `--single-pred-prompt`."""


@dataclass(frozen=True, kw_only=True)
class VqaData:
    """The files of one benchmark, as `Vqa` has them; without annotations nothing is scored."""

    benchmark: str
    questions: Path
    images: Path
    annotations: tuple[Path, ...] = ()
    problems: Path | None = None
    splits: Path | None = None
    split: str = "test"

    def __post_init__(self) -> None:
        check_benchmark(self.benchmark)
        if (self.problems is None) != (self.splits is None):
            raise ValueError("ScienceQA needs both problems.json and pid_splits.json, or neither")
        if self.benchmark != "pope" and len(self.annotations) > 1:
            raise ValueError(f"{self.benchmark} has one file of annotations, not several")

    @property
    def is_labelled(self) -> bool:
        """The right answers are known."""
        return bool(self.problems if self.benchmark == "scienceqa" else self.annotations)


def check_benchmark(name: str) -> None:
    """Raise ValueError, with the known ones, unless there is such a benchmark."""
    if name not in BENCHMARKS:
        raise ValueError(f"unknown task {name!r}; known: {', '.join(BENCHMARKS)}")


# (questions, folder of images, right answers: the first pattern that fits); {split} is the split.
_TOY: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "gqa": ("llava_gqa_{split}.jsonl", "../images", ("{split}_balanced_questions.json",)),
    "textvqa": ("llava_textvqa_{split}.jsonl", "../images", ("TextVQA_0.5.1_{split}.json",)),
    "pope": ("llava_pope_{split}.jsonl", "../images", ("{split}/coco_pope_*.json",)),
    "vqav2": ("llava_vqav2_{split}.jsonl", "../images", ("{split}_annotations.json",)),
    "scienceqa": ("llava_{split}_CQM-A.json", "../images", ()),
}
_LLAVA: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "gqa": (
        "llava_gqa_testdev_balanced.jsonl",
        "data/images",
        tuple(f"data/{x}testdev_balanced_questions.json" for x in ("", "questions*/")),
    ),
    "textvqa": ("llava_textvqa_val_v051_ocr.jsonl", "train_images", ("TextVQA_0.5.1_val.json",)),
    "pope": ("llava_pope_test.jsonl", "val2014", ("coco/coco_pope_*.json", "coco_pope_*.json")),
    "vqav2": ("llava_vqav2_mscoco_test-dev2015.jsonl", "test2015", ()),  # no public answers
    "scienceqa": ("llava_test_CQM-A.json", "images/test", ()),
}


def find_vqa_data(benchmark: str, folder: Path, split: str = "") -> VqaData:
    """The files of a benchmark in the toy world's or LLaVA's folder of all, or in its own there.

    LLaVA's folders have one split a benchmark; of the toy world "" is "val".
    """
    check_benchmark(benchmark)
    own = folder
    if folder.name != benchmark or (folder / benchmark).is_dir():
        own = folder / benchmark
    looked_for = []
    for layout in (_TOY, _LLAVA):
        questions, images, patterns = layout[benchmark]
        chosen = (split or "val") if layout is _TOY else "test"
        path = own / questions.format(split=chosen)
        if not path.is_file():
            looked_for.append(printable(path))
            continue
        if split and layout is _LLAVA:
            raise ValueError(
                f"LLaVA's folders have one split of {benchmark}: leave out --split {split}"
            )
        found = [sorted(own.glob(pattern.format(split=chosen))) for pattern in patterns]
        problems, splits = own / "problems.json", own / "pid_splits.json"
        labelled = benchmark == "scienceqa" and problems.is_file() and splits.is_file()
        return VqaData(
            benchmark=benchmark,
            questions=path,
            images=own.parent / "images" if layout is _TOY else own / images,
            annotations=tuple(next(filter(None, found), ())),
            problems=problems if labelled else None,
            splits=splits if labelled else None,
            split=chosen,
        )
    raise ValueError(
        f"no questions of {benchmark}: looked for {' and '.join(looked_for)}. Files in other "
        "places are named with --questions and --images"
    )


@dataclass(frozen=True, kw_only=True)
class VqaQuestion:
    """One question; `category` is POPE's split, and `fault` says why it cannot be asked."""

    question_id: int | str
    prompt: str
    image: str = ""
    category: str = ""
    fault: str = ""

    @property
    def key(self) -> str:
        """The id as text."""
        return str(self.question_id)

    @property
    def name(self) -> str:
        """For people: the id and the first line of the question."""
        return f"{self.question_id} ({self.prompt.removeprefix(IMAGE).strip().splitlines()[0]})"


def read_vqa_questions(path: Path, benchmark: str) -> list[VqaQuestion]:
    """The questions in the order of the file; ids are unique but in TextVQA (the images').

    A question whose image and "<image>" do not fit together has a `fault`.
    """
    if benchmark == "scienceqa":
        document = read_document(path)
        if not isinstance(document, list) or not document:
            raise ScoreInputError(path, "wrong format: expected a list of LLaVA's entries")
        numbered = [(f"number {place}", entry) for place, entry in enumerate(document)]
        expected = '"id" and "conversations" (the first with "value")'
        questions = parsed(path, numbered, _scienceqa_question, expected, "question")
    else:
        lines = [(f"line {number}", line) for number, line in read_lines(path)]
        expected = '"question_id" (string or whole number), "text" and perhaps "image" (strings)'
        questions = parsed(path, lines, _question, expected, "question")
    if benchmark != "textvqa":
        pairs = ((question.key, question) for question in questions)
        unique(path, pairs, "ids that occur more than once")
    return questions


def _question(line: Json) -> VqaQuestion:
    text, image = _asked(line["text"]), words(line.get("image", ""))
    identifier(line["question_id"])
    marks = text.count(IMAGE)
    fault = "" if image else "it names no image"
    return VqaQuestion(
        question_id=line["question_id"],
        prompt=text,
        image=image,
        category=str(line.get("category", "")),
        fault=f"{IMAGE} {marks} times for one image" if marks > 1 else fault,
    )


def _scienceqa_question(entry: Json) -> VqaQuestion:
    turns = entry["conversations"] or [{}]
    text, image = _asked(turns[0]["value"]), words(entry.get("image", ""))
    identifier(entry["id"])
    marks, fault = text.count(IMAGE), ""
    if marks and not image:
        fault = f"{IMAGE} without an image"
    elif marks != bool(image):
        fault = f"an image, but {IMAGE} {marks} times"
    place = f"{IMAGE}\n" if image else ""
    prompt = f"{place}{text.replace(IMAGE, '').strip()}\n{SCIENCEQA_PROMPT}"
    return VqaQuestion(question_id=entry["id"], prompt=prompt, image=image, fault=fault)


def _asked(text: object) -> str:
    if not words(text).replace(IMAGE, "").strip():
        raise TypeError
    return words(text)
