"""The HTML report of one evaluation: `radio eval TASK --report FILE.html`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from radio_core.open import open_model
from radio_eval.cli import evaluate
from radio_eval.data.answers import Answer, Answers
from radio_eval.data.vqa import BENCHMARKS, find_vqa_data, read_vqa_questions
from radio_eval.report.pictures import choose_rows
from radio_eval.report.sections import Section
from radio_eval.report.vqa import vqa_sections
from radio_eval.results import StoredRows
from radio_eval.runner import Context, run_task
from radio_eval.scores.knn import Neighbours
from radio_eval.scores.vqa import judge
from radio_eval.scores.vqa_benchmarks import read_benchmark
from radio_eval.tasks import knn
from radio_eval.tasks.knn import Knn, knn_sections

pytest.importorskip("matplotlib", reason="needs the extra 'eval'")

SMALL = ("--image-size", "32", "--no-cache")


def test_knn_shows_the_neighbours_that_voted(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Knn(data=toy / "classification", image_size=32, k=5, cache=tmp_path)
    shown: list[Section] = []

    def observe(
        train_data: Any,
        val_data: Any,
        train: StoredRows,
        val: StoredRows,
        found: Neighbours,
        t: float,
    ) -> list[Section]:
        [sheet, pairs] = knn_sections(train_data, val_data, train, val, found, t)
        shown.extend((sheet, pairs))
        hits = found.predicted == val.labels
        rows = choose_rows(hits, 8)
        assert [card.lead and card.lead.name for card in sheet.cards] == list(map(val.name, rows))
        assert [card.lines[0].right for card in sheet.cards] == hits[rows].tolist()
        for row, card in zip(rows, sheet.cards, strict=True):
            assert card.lead is not None
            assert card.lead.pixels is not None
            nearest = found.rows[row].tolist()
            assert [near.name for near in card.pictures] == list(map(train.name, nearest))
            numbers = [f"{number:.2f}" for number in found.similarities[row].tolist()]
            assert [near.caption.split()[0] for near in card.pictures] == numbers
            said = card.title if hits[row] else card.lines[0].text.removeprefix("taken for ")
            assert card.lines[1].text == said
            assert all(near.pixels is not None for near in card.pictures)
            right = (train.labels[nearest] == val.labels[row]).tolist()
            assert [near.right for near in card.pictures] == right
        wrong = {*zip(val.labels[~hits].tolist(), found.predicted[~hits].tolist(), strict=True)}
        assert len(pairs.cards) == min(12, len(wrong))
        return shown

    monkeypatch.setattr(knn, "knn_sections", observe)
    context = Context(sections=[])
    run_task(task, open_model("random:tiny"), context)
    assert context.sections == shown
    assert len(shown) == 2


def test_the_knn_report_is_whole(toy: Path, tmp_path: Path, run: Any) -> None:
    found = run("knn", toy / "classification", tmp_path, *SMALL)
    images = [attributes for tag, attributes in found.seen if tag == "img"]
    assert len(images) >= 8 * 9
    for text in ("kNN classification", "random:tiny", "Most confused classes", "temperature"):
        assert text in found.text
    assert '"torch":' in found.text
    assert '"files":' in found.text


def test_without_a_report_no_picture_is_made(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(knn, "knn_sections", fail)
    data = str(toy / "classification")
    command = ["knn", "--model", "random:tiny", "--data", data, "--device", "cpu", *SMALL]
    assert evaluate.evaluate(command) == 0
    assert "report:" not in capsys.readouterr().out
    with pytest.raises(AssertionError):
        evaluate.evaluate([*command, "--report", "unused.html"])


def test_a_folder_in_the_place_of_the_report_is_refused_before_the_run(
    toy: Path, tmp_path: Path
) -> None:
    command = ["knn", "--model", "random:tiny", "--data", str(toy / "classification")]
    with pytest.raises(ValueError, match=r"is a folder; name an HTML file"):
        evaluate.evaluate([*command, *SMALL, "--report", str(tmp_path)])
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot make its folder: "):
        evaluate.evaluate([*command, *SMALL, "--report", str(tmp_path / "file" / "a.html")])


def test_zero_shot(toy: Path, tmp_path: Path, run: Any) -> None:
    pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    data = toy / "classification"
    found = run("zero-shot", data, tmp_path, "--no-cache", model="toy-clip")
    assert "top-5 accuracy" in found.text
    assert [tag for tag, _ in found.seen if tag == "svg"] == ["svg"]


def test_linear_seg_without_a_folder(toy: Path, tmp_path: Path, run: Any) -> None:
    options = ("--protocol", "toy", "--image-size", "32", "--iterations", "2", "--workers", "0")
    found = run("linear-seg", toy / "segmentation", tmp_path, *options)
    assert "IoU of every class" in found.text
    assert found.text.count("image as the model saw it") == 6
    assert len([tag for tag, _ in found.seen if tag == "img"]) == 3 * 6
    assert "% of the pixels right" in found.text


def test_sam_coco(toy: Path, tmp_path: Path, run: Any) -> None:
    pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
    pytest.importorskip("pycocotools", reason="needs the extra 'eval'")
    broken = tmp_path / "coco"
    shutil.copytree(toy / "coco", broken)
    first = min((broken / "val2017").iterdir())
    first.write_bytes(b"broken")
    found = run("sam-coco", broken, tmp_path, "--limit", "4", model="sam")
    assert len([tag for tag, _ in found.seen if tag == "img"]) == 3 * 3
    assert first.name not in found.text
    assert "mean IoU" in found.text
    assert "not an image" in found.text


@pytest.mark.parametrize("task", BENCHMARKS)
def test_questions_are_judged_as_they_are_scored(task: str, toy: Path) -> None:
    data = find_vqa_data(task, toy / "vqa")
    questions = read_vqa_questions(data.questions, task)
    words = ["yes", "no", "A", "B", "2", "red", "lamp"]
    said = {place: words[place % len(words)] for place in range(len(questions))}
    benchmark = read_benchmark(data)
    benchmark.ask(questions)
    judged = judge(benchmark, said)
    assert len(judged) == len(questions)
    mean = 100 * sum(each.score for each in judged) / len(judged)
    answers = [
        Answer(line=place + 1, question_id=q.key, text=said[place], prompt=q.prompt)
        for place, q in enumerate(questions)
    ]
    scores = benchmark.score(Answers(path=data.questions, said=answers))
    assert mean == pytest.approx(scores["accuracy"])
    assert len(judge(benchmark, {place: said[place] for place in range(5)})) == 5
    [asked] = vqa_sections(judged, data.images)
    assert sum(len(card.lines) for card in asked.cards) == 2 * min(12, len(questions))
    assert vqa_sections([], data.images) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "part", "options"),
    [
        ("knn", "classification", SMALL),
        ("linear-seg", "segmentation", ("--protocol", "toy", "--iterations", "2")),
    ],
)
def test_two_processes_write_the_report_of_one(
    toy: Path, tmp_path: Path, task: str, part: str, options: Sequence[str]
) -> None:
    command = ["-m", "radio_core.cli", "eval", task, "--model", "random:tiny", "--device", "cpu"]
    command += ["--data", str(toy / part), *options]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    pages = []
    for name, start in (("one", []), ("two", launcher)):
        file = tmp_path / f"{name}.html"
        done = subprocess.run(
            [sys.executable, *start, *command, "--report", str(file)],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("report: ") == 1
        pages.append(file.read_text(encoding="utf-8").partition("<details>")[0])
    assert pages[0] == pages[1]
