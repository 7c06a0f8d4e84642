"""What `radio eval table1` refuses before any work."""

from pathlib import Path

import pytest

from radio_core.cli import UsageError
from radio_eval.cli.table1 import main
from radio_eval.table1.columns import choose_columns
from radio_eval.table1.models import read_models


def test_models_of_every_form_are_taken(tmp_path: Path) -> None:
    names = ["toy", "toy-clip", "radio_h", "random:tiny", "timm:vit", "hf:a/b", "nvidia/RADIO"]
    names += ["open_clip:ViT-L-14/openai", "dinov2:facebook/x", "sam:vit_h:f.pth", str(tmp_path)]
    assert read_models(" , ".join(names)) == tuple(names)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("", "names no model"),
        ("toy,toyy", "unknown model 'toyy'; known: toy, toy-clip"),
        ("toy,timm:", "unknown model 'timm:'"),
        ("tests/none", "unknown model"),
        ("toy,toy-clip,toy", "toy twice"),
        ("radio_h,radio_v2.5-h", "radio_v2.5-h twice: as 'radio_h' and as 'radio_v2.5-h'"),
    ],
)
def test_unknown_and_repeated_models_are_refused_before_any_work(
    models: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        main(["--models", models, "--out", "out"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "knn,ocr"], "unknown task 'ocr'; known: zero-shot, knn"),
        (["--tasks", "ade20k"], "toy-seg in place of ade20k"),
        (["--tasks", "toy-seg", "--voc", "v"], "toy-seg is a task of the toy world"),
        (["--data", "d", "--voc", "v"], "--data is the toy world's"),
        (["--llava", "toy=d"], "--llava needs the questions"),
        (["--vqa", "v", "--llava", "toy"], "must be MODEL=DIR"),
        (["--vqa", "v", "--llava", "toy-sam=d"], "--models has toy"),
        (["--vqa", "v", "--llava", "toy=d", "toy=e"], "twice"),
        (["--iterations", "0"], "at least 1"),
    ],
)
def test_wrong_options_are_refused_before_any_work(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((UsageError, SystemExit)) as caught:
        main(["--models", "toy", "--out", str(tmp_path / "out"), *options])
    told = f"{caught.value} {capsys.readouterr().err}"  # the option parser prints what it refuses
    assert message in " ".join(told.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process"):
        main(["--models", "toy"])


def test_columns_keep_the_papers_order() -> None:
    chosen = choose_columns("coco, knn,gqa", (), "folders")
    assert [column.name for column in chosen] == ["knn", "gqa", "coco"]
    everything = choose_columns("", ("coco", "toy-seg"), "toy")
    assert [column.name for column in everything] == ["toy-seg", "coco"]
