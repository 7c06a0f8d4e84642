import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from radio_core.cli import main
from radio_llava.answering import Answerer, Query
from radio_llava.cli import chat
from radio_llava.cli.chat import Chat


class Parrot(Answerer):
    """An answerer that says how often it was asked, in two pieces."""

    name = "parrot"

    def __init__(self) -> None:
        self.settings: dict[str, str] = {}
        self.queries: list[Query] = []
        self.interrupt = False

    def prompt(self, query: Query) -> str:
        return query.text

    def _generate(self, *_: Any, **options: Any) -> Any:
        raise NotImplementedError

    def stream(self, query: Query, listen: Callable[[str], None], max_new_tokens: int = 512) -> str:
        query.turns()
        self.queries.append(query)
        listen("turn ")
        if self.interrupt:
            raise KeyboardInterrupt
        listen(f"{len(query.history)}\x1b")
        return f"turn {len(query.history)}"

    def image_tokens(self, height: int, width: int) -> int | None:
        return height * width


@pytest.fixture
def parrot(monkeypatch: pytest.MonkeyPatch) -> Parrot:
    """What the command loads, whatever model is asked for."""
    found = Parrot()
    monkeypatch.setattr(chat, "load_answerer", lambda *_, **__: found)
    return found


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (30, 20), "red").save(path)
    return path


ChatOf = Callable[..., str]


@pytest.fixture
def chat_of(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> ChatOf:
    """Types lines into the command, and returns what it shows."""

    def show(*lines: str) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        assert main(["llava", "chat", str(picture), "--model", "m"]) == 0
        return capsys.readouterr().out

    return show


def test_prompts_are_answered_in_one_talk(
    parrot: Parrot, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(picture), "--model", "m", "--prompt", "What?", "--prompt", "Why?"]
    assert main(["llava", "chat", *argv]) == 0
    shown = capsys.readouterr()
    assert shown.out == "turn 0\N{REPLACEMENT CHARACTER}\nturn 1\N{REPLACEMENT CHARACTER}\n"
    assert "red.png: 30 x 20 pixels, 600 image tokens" in shown.err
    assert [len(query.images) for query in parrot.queries] == [1, 1]
    assert parrot.queries[1].turns() == [("<image>\nWhat?", "turn 0\x1b"), ("Why?", "")]


def test_lines_are_questions_and_commands(parrot: Parrot, picture: Path, chat_of: ChatOf) -> None:
    other = picture.parent / "other picture.png"
    Image.new("RGB", (10, 10)).save(other)
    shown = chat_of(
        "What?", "", "Why?", "/reset", "What?", f"/image {other}", "Now?", "/what", "/quit", "No"
    )
    asked = [("What?", 0), ("Why?", 1), ("What?", 0), ("Now?", 0)]
    assert [(query.text, len(query.history)) for query in parrot.queries] == asked
    assert [query.images[0].size for query in parrot.queries] == [(30, 20)] * 3 + [(10, 10)]
    assert "other picture.png: 10 x 10 pixels, 100 image tokens" in shown
    assert shown.count("/reset") == 1  # what an unknown command gets


def test_what_cannot_be_used_does_not_end_the_talk(
    parrot: Parrot, picture: Path, chat_of: ChatOf
) -> None:
    gone = picture.parent / "gone.png"
    lines = chat_of(f"/image {gone}", "<image> or <image>?", "What?").splitlines()
    assert any("gone.png: missing" in line for line in lines)
    assert any("<image> 2 time(s), but 1 image(s)" in line for line in lines)
    assert [query.text for query in parrot.queries] == ["What?"]
    assert parrot.queries[0].images[0].size == (30, 20)


def test_a_mark_in_a_later_question_needs_an_image_of_its_own(picture: Path) -> None:
    talk = Chat(Parrot(), lambda _: None)
    talk.look_at(picture)
    talk.ask("What?")
    with pytest.raises(ValueError, match=r"2 time\(s\), but 1 image"):
        talk.ask("And <image>?")


def test_an_interrupted_answer_is_kept_as_far_as_it_came(picture: Path) -> None:
    parrot, said = Parrot(), list[str]()
    talk = Chat(parrot, said.append)
    parrot.interrupt = True
    assert talk.take("What?")
    parrot.interrupt = False
    talk.take("Why?")
    assert said[:3] == ["turn ", " ...", "\n"]
    assert parrot.queries[1].history == (("What?", "turn"),)


def test_without_an_image_the_talk_is_text(
    parrot: Parrot, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["llava", "chat", "--model", "m", "--prompt", "What?"]) == 0
    assert parrot.queries[0].images == ()
    assert main(["llava", "chat", "--model", "m", "--prompt", "Is <image> red?"]) == 1
    assert "no image was given" in capsys.readouterr().err


def test_a_bad_image_is_one_line_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chat, "load_answerer", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "text.png").write_text("no image")
    for name, reason in (("text.png", "not an image"), ("gone.png", "missing")):
        assert main(["llava", "chat", str(tmp_path / name), "--model", "m"]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert reason in line


def test_a_missing_model_is_named(
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for options, code, message in (
        ([], 2, "quickstart"),
        (["--model", "gone"], 1, "has no config.json"),
        (["--model", "gone", "--device", "tpx"], 1, "unknown device 'tpx'"),
    ):
        assert main(["llava", "chat", str(picture), *options]) == code
        assert message in capsys.readouterr().err
