"""Questions on images: a model that knows the answers is asked, interrupted, shared and resumed."""

import dataclasses
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from radio_core.cli import main
from radio_core.data.images import load_rgb
from radio_core.data.toyworld.export import export
from radio_core.processes import Processes
from radio_eval.data.answers import ScoreInputError, read_answers
from radio_eval.data.vqa import BENCHMARKS, VqaData, find_vqa_data, read_vqa_questions
from radio_eval.runner import Context, TaskResult, run_task
from radio_eval.tasks import vqa as task_module
from radio_eval.tasks.vqa import Vqa
from radio_llava.answering import Answerer, AnswererSpec, Query

SCENES = 8
Key = tuple[bytes, str]


def evaluate(
    answerer: Answerer, data: VqaData, answers: Path, context: Context | None = None, **options: Any
) -> TaskResult:
    fields = {f.name: getattr(data, f.name) for f in dataclasses.fields(data)}
    task = fields.pop("benchmark")
    return run_task(Vqa(task=task, answers=answers, **fields, **options), answerer, context)


class Oracle(Answerer):
    """An answerer that knows what to say of each picture, and remembers what it was asked."""

    def __init__(self, known: dict[Key, str]) -> None:
        self.name = "oracle"
        self.spec = AnswererSpec(name=self.name)
        self.settings = {"weights": "0"}
        self.known = known
        self.batches: list[list[str]] = []
        self.stop_after: int | None = None

    def prompt(self, query: Query) -> str:
        return query.text

    def answers(self, queries: Sequence[Query], max_new_tokens: int = 128) -> list[str]:
        if self.stop_after is not None and len(self.batches) >= self.stop_after:
            raise KeyboardInterrupt
        self.batches.append([query.text for query in queries])
        if any("refused" in query.text for query in queries):
            raise ValueError("features overflow")
        return [self.known[picture(query), query.text] for query in queries]

    def _generate(self, *_: Any, **options: Any) -> Any:
        raise NotImplementedError

    def image_tokens(self, height: int, width: int) -> int | None:
        return height * width // 256

    @property
    def asked(self) -> int:
        return sum(map(len, self.batches))


def picture(query: Query) -> bytes:
    return query.images[0].tobytes() if query.images else b""


def right_answers(data: VqaData) -> list[str]:
    """The answer to each question, in their order."""
    questions = read_vqa_questions(data.questions, data.benchmark)
    if data.benchmark == "pope":
        assert {path.name for path in data.annotations} == {
            f"coco_pope_{split}.json" for split in ("random", "popular", "adversarial")
        }
        label_lines = [line for path in data.annotations for line in path.read_text().splitlines()]
        labels = {x["question_id"]: x["label"] for x in map(json.loads, label_lines)}
        return [labels[q.question_id] for q in questions]
    if data.benchmark == "scienceqa":
        assert data.problems is not None
        problems = json.loads(data.problems.read_text())
        return ["ABCDE"[problems[str(q.question_id)]["answer"]] for q in questions]
    labels = json.loads(data.annotations[0].read_text())
    if data.benchmark == "gqa":
        return [labels[q.question_id]["answer"] for q in questions]
    if data.benchmark == "vqav2":
        said = {x["question_id"]: x["multiple_choice_answer"] for x in labels["annotations"]}
        return [said[q.question_id] for q in questions]
    words = {(x["image_id"], x["question"]): x["answers"][0] for x in labels["data"]}
    return [words[str(q.question_id), q.prompt.splitlines()[0]] for q in questions]


def known_to(data: VqaData) -> Oracle:
    questions = read_vqa_questions(data.questions, data.benchmark)
    known = {}
    for question, answer in zip(questions, right_answers(data), strict=True):
        image = load_rgb(data.images / question.image).tobytes() if question.image else b""
        known[image, question.prompt] = answer
    return Oracle(known)


def make_oracle(known: dict[tuple[Path, str], str]) -> Oracle:
    """An answerer out of (image file, prompt) -> answer."""
    return Oracle({(load_rgb(path).tobytes(), text): said for (path, text), said in known.items()})


def ids(path: Path) -> list[str]:
    """The question ids of a file of answers."""
    return [answer.question_id for answer in read_answers(path).said]


def copied(data: VqaData, folder: Path) -> VqaData:
    """The task with pictures of its own in a folder, to be broken."""
    for question in read_vqa_questions(data.questions, data.benchmark):
        if question.image:
            place = folder / question.image
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((data.images / question.image).read_bytes())
    return dataclasses.replace(data, images=folder)


def write_questions(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def toy_vqa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy world's questions on eight scenes."""
    out = tmp_path_factory.mktemp("toy-vqa")
    export(out, 1, SCENES, parts=("vqa",))
    return out / "vqa"


@pytest.fixture
def gqa(toy_vqa: Path) -> VqaData:
    return find_vqa_data("gqa", toy_vqa)


@pytest.mark.parametrize("task", BENCHMARKS)
def test_right_answers_score_everything(task: str, toy_vqa: Path, tmp_path: Path) -> None:
    data = find_vqa_data(task, toy_vqa)
    answers = tmp_path / "deep" / "answers.jsonl"
    result = evaluate(known_to(data), data, answers, batch_size=3)
    questions = read_vqa_questions(data.questions, task)
    assert result.metrics["accuracy"] == pytest.approx(100)
    assert result.metrics["count"] == len(questions)
    assert result.metrics["unanswered"] == 0
    assert result.metrics["image_tokens"] == 64
    assert not result.unscored
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [(x["question_id"], x["prompt"]) for x in lines] == [
        (q.question_id, q.prompt) for q in questions
    ]
    assert set(lines[0]) == {
        "question_id", "prompt", "text", "answer_id", "model_id", "metadata",
    }  # fmt: skip
    assert {x["model_id"] for x in lines} == {"oracle"}


def test_pope_has_the_scores_of_each_split_and_their_means(toy_vqa: Path, tmp_path: Path) -> None:
    data = find_vqa_data("pope", toy_vqa)
    oracle = known_to(data)
    oracle.known = dict.fromkeys(oracle.known, "yes")
    result = evaluate(oracle, data, tmp_path / "answers.jsonl")
    for split in ("random", "popular", "adversarial"):
        assert result.metrics[f"{split}.f1"] == pytest.approx(200 / 3)
    assert result.metrics["accuracy"] == pytest.approx(50)
    assert result.metrics["yes_ratio"] == pytest.approx(100)
    assert result.metrics["f1"] == pytest.approx(200 / 3)


@pytest.mark.parametrize("task", BENCHMARKS)
def test_the_first_questions_are_scored_alone_and_then_the_others(
    task: str, toy_vqa: Path, tmp_path: Path
) -> None:
    data = find_vqa_data(task, toy_vqa)
    answers = tmp_path / "answers.jsonl"
    total = len(read_vqa_questions(data.questions, task))
    part = evaluate(known_to(data), data, answers, limit=3)
    assert (part.metrics["accuracy"], part.metrics["count"]) == (pytest.approx(100), min(3, total))
    oracle = known_to(data)
    whole = evaluate(oracle, data, answers)
    assert (whole.metrics["accuracy"], whole.metrics["count"]) == (pytest.approx(100), total)
    assert oracle.asked == total - part.metrics["count"]
    part = evaluate(known_to(data), data, answers, limit=2)
    assert (part.metrics["accuracy"], part.metrics["count"]) == (pytest.approx(100), min(2, total))
    assert len(ids(answers)) == total  # nothing that was written is lost


def test_questions_of_like_length_are_asked_together(tmp_path: Path) -> None:
    sizes = {"wide.png": (640, 64), "small.png": (32, 32), "large.png": (640, 640)}
    for name, size in sizes.items():
        Image.new("RGB", size).save(tmp_path / name)
    lines = [
        {"question_id": number, "image": name, "text": f"{name} {number}"}
        for number, name in enumerate([*sizes] * 2)
    ]
    questions = write_questions(tmp_path / "questions.jsonl", lines)
    oracle = make_oracle({(tmp_path / line["image"], line["text"]): "x" for line in lines})
    data = VqaData(benchmark="vqav2", questions=questions, images=tmp_path)
    result = evaluate(oracle, data, tmp_path / "answers.jsonl", batch_size=2)
    kinds = [[text.split()[0] for text in batch] for batch in oracle.batches]
    assert kinds == [[name] * 2 for name in ("large.png", "wide.png", "small.png")]
    assert ids(tmp_path / "answers.jsonl") == ["0", "1", "2", "3", "4", "5"]
    assert result.metrics["image_tokens"] == pytest.approx((160 + 4 + 1600) / 3)


class Threads(Processes):
    """Processes that are threads."""

    def __init__(self, rank: int, barrier: threading.Barrier, values: dict[int, Any]) -> None:
        super().__init__(rank, 2)
        self.barrier, self.values = barrier, values

    def gather(self, value: Any, patient: bool = False) -> list[Any]:
        self.barrier.wait()
        self.values[self.rank] = value
        self.barrier.wait()
        return [self.values[rank] for rank in range(self.size)]


def test_several_processes_share_the_questions(gqa: VqaData, tmp_path: Path) -> None:
    barrier, values = threading.Barrier(2, timeout=60), {}
    oracles = [known_to(gqa), known_to(gqa)]
    results: dict[int, Any] = {}

    def work(rank: int) -> None:
        context = Context(processes=Threads(rank, barrier, values))
        answers = tmp_path / "answers.jsonl"
        results[rank] = evaluate(oracles[rank], gqa, answers, context, batch_size=2)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0].metrics == results[1].metrics
    assert results[0].value == 100
    assert min(oracle.asked for oracle in oracles) >= len(ids(tmp_path / "answers.jsonl")) // 2 - 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "answers.jsonl",
        "answers.jsonl.identity.json",
    ]


@pytest.mark.parametrize(
    ("task", "accuracy", "unscored"),
    [
        ("gqa", None, "no answer to"),
        ("textvqa", None, "no answer to"),
        ("pope", None, "answers for"),
        ("vqav2", 0, ""),
        ("scienceqa", 0, ""),
    ],
)
def test_questions_on_broken_images_have_no_answer(
    task: str, accuracy: float | None, unscored: str, toy_vqa: Path, tmp_path: Path
) -> None:
    data = copied(find_vqa_data(task, toy_vqa), tmp_path / "images")
    oracle = known_to(data)
    questions = read_vqa_questions(data.questions, task)
    names = list(dict.fromkeys(q.image for q in questions if q.image))
    contents = {name: (data.images / name).read_bytes() for name in names}
    gone, cut = names[0], names[1]
    (data.images / gone).unlink()
    (data.images / cut).write_bytes(contents[cut][:-200])
    answers = tmp_path / "answers.jsonl"
    result = evaluate(oracle, data, answers, batch_size=4)
    lost = sum(q.image in (gone, cut) for q in questions)
    assert result.metrics["unanswered"] == result.skipped["questions"]["count"] == lost > 1
    assert set(result.skipped["questions"]["reasons"]) >= {"missing"}
    assert sum(result.skipped["questions"]["reasons"].values()) == lost
    first = next(q for q in questions if q.image == gone)
    assert Path(gone).name in result.skipped["questions"]["each"][first.name]
    if accuracy is None:
        assert result.metrics["accuracy"] is None
        assert unscored in result.unscored
    else:
        assert result.metrics["accuracy"] == pytest.approx(100 * (1 - lost / len(questions)))
    for name, content in contents.items():
        (data.images / name).write_bytes(content)
    again = evaluate(oracle, data, answers)
    assert (again.metrics["accuracy"], again.metrics["unanswered"]) == (pytest.approx(100), 0)


def test_questions_that_cannot_be_asked_are_named(tmp_path: Path) -> None:
    Image.new("RGB", (32, 16), "red").save(tmp_path / "red.png")
    lines = [
        {"question_id": 0, "image": "red.png", "text": "Which colour?"},
        {"question_id": 1, "text": "Which colour <image>?"},
        {"question_id": 2, "image": "red.png", "text": "<image> or <image>?"},
        {"question_id": 3, "image": "red.png", "text": "This is refused"},
        {"question_id": 4, "image": "\0", "text": "What?"},
        {"question_id": 5, "image": "../../gone.png", "text": "What?"},
    ]
    questions = write_questions(tmp_path / "questions.jsonl", lines)
    data = VqaData(benchmark="vqav2", questions=questions, images=tmp_path)
    oracle = make_oracle({(tmp_path / "red.png", "Which colour?"): "red"})
    context = Context()
    result = evaluate(oracle, data, tmp_path / "answers.jsonl", context)
    assert ids(tmp_path / "answers.jsonl") == ["0"]
    assert result.skipped["questions"]["reasons"] == {
        "it names no image": 1,
        "<image> 2 times for one image": 1,
        "refused by the model": 1,
        "missing": 2,
    }
    why = result.skipped["questions"]["each"]["3 (This is refused)"]
    assert why == "refused by the model: features overflow"
    assert result.metrics["accuracy"] is None
    assert "not known" in context.notes[0]


def test_right_answers_are_looked_at_before_the_questions_are_asked(
    gqa: VqaData, toy_vqa: Path, tmp_path: Path
) -> None:
    pope = find_vqa_data("pope", toy_vqa)
    wrong = [
        (dataclasses.replace(gqa, annotations=(tmp_path / "gone.json",)), "no such file"),
        (dataclasses.replace(gqa, annotations=(gqa.questions,)), "not a JSON file"),
        (dataclasses.replace(pope, annotations=pope.annotations[:1]), "no label file for 2"),
    ]
    for data, message in wrong:
        oracle = make_oracle({})
        with pytest.raises(ScoreInputError, match=message):
            evaluate(oracle, data, tmp_path / "answers.jsonl")
        assert oracle.batches == []
    with pytest.raises(ValueError, match="no folder of images"):
        evaluate(make_oracle({}), dataclasses.replace(gqa, images=tmp_path / "no"), tmp_path / "a")
    with pytest.raises(ValueError, match="at least 1"):
        evaluate(make_oracle({}), gqa, tmp_path / "a", batch_size=0)


def test_an_interrupted_run_goes_on(gqa: VqaData, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    total = len(read_vqa_questions(gqa.questions, "gqa"))
    oracle = known_to(gqa)
    oracle.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        evaluate(oracle, gqa, answers, batch_size=5)
    assert len(ids(answers)) == 10
    with answers.open("a") as file:
        file.write('{"question_id": "000')  # killed while it wrote
    again = known_to(gqa)
    heard: list[tuple[str, int, int]] = []
    context = Context(progress=lambda *event: heard.append(event))
    result = evaluate(again, gqa, answers, context, batch_size=4)
    assert again.asked == total - 10
    assert heard[-1] == ("questions", total - 10, total - 10)
    assert result.metrics["accuracy"] == 100
    assert ids(answers) == [str(q.question_id) for q in read_vqa_questions(gqa.questions, "gqa")]
    done = known_to(gqa)
    assert evaluate(done, gqa, answers).value == 100
    assert done.asked == 0


def test_a_file_of_another_run_is_refused(gqa: VqaData, toy_vqa: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    oracle = known_to(gqa)
    evaluate(oracle, gqa, answers, limit=5)
    before = answers.read_bytes()
    vqav2 = find_vqa_data("vqav2", toy_vqa)
    with pytest.raises(ValueError, match=r"another run.*task: gqa, now vqav2.*--overwrite"):
        evaluate(known_to(vqav2), vqav2, answers)
    with pytest.raises(ValueError, match="max_new_tokens: 128, now 9"):
        evaluate(oracle, gqa, answers, max_new_tokens=9)
    with pytest.raises(ValueError, match="images: "):
        evaluate(oracle, dataclasses.replace(gqa, images=tmp_path), answers)
    oracle.settings = {"weights": "1"}
    with pytest.raises(ValueError, match="weights: 0, now 1"):
        evaluate(oracle, gqa, answers)
    assert answers.read_bytes() == before
    assert evaluate(oracle, gqa, answers, overwrite=True).value == 100


def test_answers_that_nobody_accounts_for_are_refused(gqa: VqaData, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    evaluate(known_to(gqa), gqa, answers)
    settings = tmp_path / "answers.jsonl.identity.json"
    content = settings.read_text()
    settings.unlink()
    with pytest.raises(ValueError, match=r"answers\.jsonl holds results of another run"):
        evaluate(known_to(gqa), gqa, answers)
    settings.write_text(content)
    lines = answers.read_text().splitlines(keepends=True)
    answers.write_text(lines[0] + "{}\n" + lines[1])
    with pytest.raises(ValueError, match="line 2 is damaged"):
        evaluate(known_to(gqa), gqa, answers)
    answers.write_text(lines[0] + lines[1].replace('"prompt": "', '"prompt": "Not '))
    with pytest.raises(ValueError, match=r"line 2 .*answers none of the questions"):
        evaluate(known_to(gqa), gqa, answers)


def test_what_another_process_left_behind_is_taken_over(gqa: VqaData, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    evaluate(known_to(gqa), gqa, answers)
    lines = answers.read_text().splitlines(keepends=True)
    answers.write_text("".join(lines[:2]))
    (tmp_path / "answers.jsonl.part-3").write_text("".join(lines[1:6]) + lines[6][:20])
    oracle = known_to(gqa)
    assert evaluate(oracle, gqa, answers).value == 100
    assert oracle.asked == len(lines) - 6
    assert not (tmp_path / "answers.jsonl.part-3").exists()


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Runs the command on an oracle of the data; returns the exit code."""

    def run(data: VqaData, *argv: object, command: str = "eval vqa") -> int:
        oracle = known_to(data)
        monkeypatch.setattr(task_module, "load_answerer", lambda *_, **__: oracle)
        given = ["--task", data.benchmark, "--model", "m", "--answers", tmp_path / "answers.jsonl"]
        return main([*command.split(), *map(str, [*given, *argv])])

    return run


def test_the_command_writes_answers_scores_and_settings(
    toy_vqa: Path,
    tmp_path: Path,
    ask: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    scores = tmp_path / "result" / "scores.json"
    data = find_vqa_data("scienceqa", toy_vqa)
    assert ask(data, "--data", toy_vqa, "--json", scores, "--batch-size", 2) == 0
    shown = capsys.readouterr().out
    assert "accuracy: 100.00" in shown
    assert "count: 8" in shown
    result = json.loads(scores.read_text())
    metrics = {name: result["metrics"][name] for name in ("image_accuracy", "unanswered")}
    assert metrics == {"image_accuracy": 100, "unanswered": 0}
    assert result["metrics"]["image_tokens"] == 64
    assert result["parameters"]["task"] == "scienceqa"
    assert result["settings"]["weights"] == "0"
    assert "torch" in result["versions"]


def test_the_command_takes_the_files_by_themselves(
    gqa: VqaData, ask: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--questions", gqa.questions, "--images", gqa.images]
    assert ask(gqa, *argv, command="llava eval") == 0  # answers alone are worth having
    assert "not scored" in capsys.readouterr().err
    assert ask(gqa, *argv, "--annotations", *gqa.annotations) == 0
    assert "accuracy: 100.00" in capsys.readouterr().out


def test_the_command_fails_where_answers_are_missing(
    gqa: VqaData, tmp_path: Path, ask: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    data = copied(gqa, tmp_path / "images")
    lost = read_vqa_questions(gqa.questions, "gqa")[0]
    (data.images / lost.image).unlink()
    argv = ["--questions", gqa.questions, "--images", data.images]
    assert ask(gqa, *argv, "--annotations", *gqa.annotations) == 1
    shown = capsys.readouterr()
    assert "accuracy: -" in shown.out
    for text in ("missing", str(lost.question_id), "not scored"):
        assert text in shown.err


def test_flags_that_do_not_fit_are_refused(
    toy_vqa: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--task", "gqa", "--model", "m", "--answers", "a.jsonl"]
    both = [*argv, "--data", str(toy_vqa), "--questions", str(toy_vqa)]
    for wrong, message in ((argv, "name --data DIR, or"), (both, "leave out --questions")):
        assert main(["eval", "vqa", *wrong]) == 2
        assert message in capsys.readouterr().err
