"""Ask a model a task's questions, keep its answers, and score them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from radio_core.data.images import SAFE_FORMATS, UnreadableImage, load_rgb, printable
from radio_core.models.fingerprint import files_fingerprint
from radio_eval.processes import Processes
from radio_eval.progress import Progress, silent
from radio_eval.vqa.answer_file import AnswerFile, AnswerWriter
from radio_eval.vqa.questions import VqaQuestion, read_vqa_questions
from radio_eval.vqa.scoring import check_labels, score_some, score_vqa
from radio_eval.vqa.tasks import VqaData
from radio_llava.answering import Answerer, Query

MAX_NEW_TOKENS = 128
"""LLaVA's own limit of an answer."""
_CHARACTERS_A_TOKEN = 4  # a guess that is good enough to put questions of like length together

Size = tuple[int, int]
"""Height and width in pixels."""
Faults = dict[int, str]
"""Place of a question -> why it has no answer."""


def evaluate_vqa(
    answerer: Answerer,
    data: VqaData,
    answers: Path,
    *,
    batch_size: int = 8,
    max_new_tokens: int = MAX_NEW_TOKENS,
    limit: int | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    processes: Processes | None = None,
) -> dict[str, Any]:
    """Ask a model a task's questions, and score what it says.

    A run that was interrupted goes on where it stopped.

    Args:
        answerer: the model.
        data: the task's files.
        answers: file of the answers, in LLaVA's format and the order of the questions.
        batch_size: questions asked at once, those of like length together.
        max_new_tokens: tokens after which an answer is cut off.
        limit: only the first questions; None for all.
        overwrite: begin anew where the file holds answers.
        progress: listener.
        processes: those that share the work; None for this one alone. Only the first has a result.

    Returns:
        "task", "model" and the scores of `scoring.score_vqa` in percent; "unanswered" questions,
        and why under "skipped"; "image_tokens" of a question's image on average; "settings". With
        answers that the protocol does not score, "accuracy" is None and "unscored" says why.

    Raises:
        ValueError: numbers, files or an existing file of answers that do not fit.
    """
    processes = processes or Processes()
    _check(data, batch_size, max_new_tokens, limit)
    questions = read_vqa_questions(data.questions, data.task)
    asked = questions[:limit]
    check_labels(data, asked)
    settings = _settings(answerer, data, max_new_tokens)
    if overwrite and processes.is_first:
        AnswerFile.clear(answers)
    file = _read_together(answers, questions, settings, processes)
    faults, tokens = _answer(
        answerer, data, asked, file, batch_size, max_new_tokens, progress, processes
    )
    gathered = processes.gather(faults)
    if not processes.is_first:
        return {}
    file = AnswerFile(answers, questions, settings)
    file.finish()
    return {
        "task": data.task,
        "model": answerer.name,
        **_scores(data, answers, asked, everything=len(asked) == len(questions)),
        **_unanswered(asked, file, gathered),
        "image_tokens": sum(tokens) / len(tokens) if tokens else None,
        "settings": {**settings, "batch_size": batch_size, "limit": limit},
    }


def _read_together(
    answers: Path,
    questions: Sequence[VqaQuestion],
    settings: Mapping[str, Any],
    processes: Processes,
) -> AnswerFile:
    """The answers that all processes start from: nobody appends before everybody has read."""
    processes.wait()
    file = AnswerFile(answers, questions, settings)
    processes.wait()
    return file


def _check(data: VqaData, batch_size: int, max_new_tokens: int, limit: int | None) -> None:
    if min(batch_size, max_new_tokens, 1 if limit is None else limit) < 1:
        raise ValueError("batch size, new tokens and limit must be at least 1")
    if not data.images.is_dir():
        raise ValueError(f"no folder of images: {printable(data.images)}")


def _answer(
    answerer: Answerer,
    data: VqaData,
    asked: Sequence[VqaQuestion],
    file: AnswerFile,
    batch_size: int,
    max_new_tokens: int,
    progress: Progress,
    processes: Processes,
) -> tuple[Faults, list[int]]:
    """Ask this process's share of what has no answer yet.

    Returns:
        Why questions got none, and how many tokens the image of each question has.
    """
    sizes, faults = _image_sizes(asked, data.images, progress)
    tokens = {place: answerer.image_tokens(*size) for place, size in sizes.items()}
    batches = _batches(_lengths(asked, tokens, {*faults, *file.done}), batch_size)
    share = [[(place, asked[place]) for place in batch] for batch in processes.share(batches)]
    with file.open_part(processes.rank) as writer:
        faults |= _ask_all(answerer, share, data.images, writer, max_new_tokens, progress)
    return faults, [count for count in tokens.values() if count is not None]


def _settings(answerer: Answerer, data: VqaData, max_new_tokens: int) -> dict[str, Any]:
    """All that decides the answers."""
    return {
        "task": data.task,
        "model": answerer.name,
        **answerer.settings,
        "questions": files_fingerprint(data.questions),
        "images": str(data.images.resolve()),
        "max_new_tokens": max_new_tokens,
    }


def _image_sizes(
    questions: Sequence[VqaQuestion], folder: Path, progress: Progress
) -> tuple[dict[int, Size], Faults]:
    """The sizes of the images that are there, and the questions that cannot be asked."""
    of_file: dict[str, Size | str] = {}
    sizes: dict[int, Size] = {}
    faults: Faults = {}
    for place, question in enumerate(questions):
        name = question.image
        if question.fault:
            faults[place] = question.fault
        elif name:
            found = of_file[name] if name in of_file else _image_size(folder / name)
            of_file[name] = found
            if isinstance(found, str):
                faults[place] = found
            else:
                sizes[place] = found
        progress("images", place + 1, len(questions))
    return sizes, faults


def _image_size(path: Path) -> Size | str:
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


def _lengths(
    asked: Sequence[VqaQuestion], tokens: Mapping[int, int | None], without: Collection[int]
) -> dict[int, int]:
    """About how many tokens each question has with its image."""
    return {
        place: (tokens.get(place) or 0) + len(question.prompt) // _CHARACTERS_A_TOKEN
        for place, question in enumerate(asked)
        if place not in without
    }


def _batches(lengths: Mapping[int, int], size: int) -> list[list[int]]:
    """Places of questions by their lengths, the longest first: memory that is short shows soon."""
    places = sorted(lengths, key=lambda place: (-lengths[place], place))
    return [places[start : start + size] for start in range(0, len(places), size)]


def _ask_all(
    answerer: Answerer,
    batches: Sequence[Sequence[tuple[int, VqaQuestion]]],
    folder: Path,
    writer: AnswerWriter,
    max_new_tokens: int,
    progress: Progress,
) -> Faults:
    """Ask (place, question) pairs batch by batch, and write the answers."""
    faults: Faults = {}
    total, done = sum(map(len, batches)), 0
    for batch in batches:
        queries, questions = [], []
        for place, question in batch:
            try:
                # stored pixels, as LLaVA's own training and evaluation read them
                image = (
                    (load_rgb(folder / question.image, upright=False),) if question.image else ()
                )
            except UnreadableImage as error:
                faults[place] = _fault(error)
                continue
            queries.append(Query(text=question.prompt, images=image))
            questions.append((place, question))
        said = _ask(answerer, queries, max_new_tokens)
        for (place, question), text in zip(questions, said, strict=True):
            if isinstance(text, ValueError):
                faults[place] = f"refused by the model: {' '.join(str(text).split())}"
            else:
                writer.write(question, text, answerer.name)
        done += len(batch)
        progress("questions", done, total)
    return faults


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


def _scores(
    data: VqaData, answers: Path, asked: Sequence[VqaQuestion], *, everything: bool
) -> dict[str, Any]:
    unscored = {"accuracy": None, "count": len(asked)}
    if not data.is_labelled:
        return {**unscored, "unscored": "the right answers are not known"}
    try:
        return (score_vqa if everything else score_some)(data, answers, asked)
    except ValueError as error:
        return {**unscored, "unscored": str(error)}


def _unanswered(
    asked: Sequence[VqaQuestion], file: AnswerFile, faults: Sequence[Faults]
) -> dict[str, Any]:
    """Which questions have no answer and why, and how many for which kind of reason."""
    why = {place: reason for part in faults for place, reason in part.items()}
    missing = [place for place in range(len(asked)) if place not in file.done]
    reasons = [why.get(place, "not asked") for place in missing]
    named = [f"{asked[place].name}: {text}" for place, text in zip(missing, reasons, strict=True)]
    kinds = Counter(reason.partition(": ")[0] for reason in reasons)
    skipped = {"count": len(missing), "reasons": dict(kinds), "questions": named}
    return {"unanswered": len(missing), "skipped": skipped}
