"""The demos' parts without a server."""

from typing import Any

import pytest

pytest.importorskip("gradio", reason="needs the extra 'demo'")

import gradio
from PIL import Image

import radio_demos
from radio_core import cli
from radio_core.zoo.load import load_model
from radio_demos.app import TABS, build_app
from radio_demos.chat import NoModel, Talk, build_chat
from radio_demos.features import build_features, read_point
from radio_demos.safety import Recent, on_picture
from radio_demos.segment import MOST_OBJECTS, Finder, added, build_segment, read_lines
from radio_demos.zero_shot import (
    MOST_LABELS,
    Classifier,
    build_zero_shot,
    read_labels,
    read_templates,
)


def test_the_command_serves_the_tab_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[dict[str, Any]] = []
    built: list[Any] = []

    def build(model: Any, tabs: Any, **options: Any) -> None:
        built.append((model.config.name, tabs, options))

    monkeypatch.setitem(radio_demos.__dict__, "build_app", build)
    monkeypatch.setitem(radio_demos.__dict__, "launch", lambda app, **rest: served.append(rest))
    assert cli.main(["demo", "zero-shot", "--port", "7999", "--auth", "me:secret"]) == 0
    assert built[0][:2] == ("toy", ("zero-shot",))
    assert served == [{"host": "127.0.0.1", "port": 7999, "share": False, "auth": ("me", "secret")}]
    cli.main(["demo"])
    assert built[1][1] == TABS
    assert built[1][2]["teachers"] == ("toy-clip", "toy-dino", "toy-sam")


def test_a_demo_for_everybody_is_pointed_at_passwords(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(radio_demos.__dict__, "build_app", lambda *_, **__: None)
    monkeypatch.setitem(radio_demos.__dict__, "launch", lambda *_, **__: None)
    cli.main(["demo", "features", "--host", "0.0.0.0"])
    assert "--auth" in capsys.readouterr().err
    cli.main(["demo", "features"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("build", [build_features, build_segment, build_zero_shot])
def test_every_tab_works_alone(build: Any) -> None:
    assert isinstance(build("toy"), gradio.Blocks)


def test_unknown_tabs_are_refused() -> None:
    with pytest.raises(ValueError, match="known: features"):
        build_app(None, ("nothing",))  # type: ignore[arg-type]


def test_without_a_llava_the_chat_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    notes = [block.value for block in build_chat().blocks.values() if hasattr(block, "value")]
    assert any("radio llava quickstart" in str(note) for note in notes)
    with pytest.raises(NoModel, match="radio llava quickstart"):
        next(Talk(None).ask(None, "What is it?", []))


def test_places_are_read_as_shares_of_the_picture() -> None:
    picture = Image.new("RGB", (200, 100))
    assert read_point(" ", picture) is None
    assert read_point("99.5, 49.5", picture) == (0.5, 0.5)


def test_lines_are_points_and_boxes() -> None:
    objects = read_lines("1,2\n3,4,0\n\n 0,0,9,9 ")
    assert len(objects) == 1
    assert objects[0].box == (0, 0, 9, 9)
    assert objects[0].labels == (1, 0)
    assert added("1,2\n", "3,4") == "1,2\n3,4"
    with pytest.raises(ValueError, match="import"):
        read_lines("import os")


def test_labels_and_templates_are_read_with_limits() -> None:
    assert read_labels("a  cat,dog\n a cat") == ("a cat", "dog")
    assert read_templates(" a {} \n\nno {}") == ("a {}", "no {}")
    with pytest.raises(ValueError, match="too many"):
        read_labels(",".join(str(n) for n in range(MOST_LABELS + 1)))


def test_requests_that_would_take_hours_are_refused() -> None:
    picture = Image.new("RGB", (64, 48))
    model = load_model("toy")
    lines = "\n".join(f"{n},{n},{n + 4},{n + 4}" for n in range(MOST_OBJECTS + 1))
    with pytest.raises(ValueError, match="33 objects are too many"):
        Finder(model, "toy-sam", None).segment(picture, lines, False)
    labels, templates = ",".join(map(str, range(200))), "\n".join(f"{n} {{}}" for n in range(50))
    with pytest.raises(ValueError, match="200 labels in 50 templates are too many"):
        Classifier(model, None).compare(picture, labels, templates)
    said = [{"role": role, "content": "a" * 15_000} for role in ("user", "assistant")]
    with pytest.raises(ValueError, match="long enough"):
        next(Talk(None).ask(picture, "What?", said))


def test_defects_are_messages_without_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    def broken(picture: Any) -> None:
        raise KeyError("secret")

    with pytest.raises(gradio.Error, match="server's log") as caught:
        on_picture(broken)(None)
    assert "secret" not in str(caught.value)
    assert "secret" in caplog.text


def test_streams_end_in_messages_too() -> None:
    def broken(picture: Any) -> Any:
        yield 1
        raise ValueError("do this\ninstead")

    stream = on_picture(broken)(None)
    assert next(stream) == 1
    with pytest.raises(gradio.Error, match="do this instead"):
        next(stream)


def test_overlong_texts_are_refused() -> None:
    with pytest.raises(gradio.Error, match="too long"):
        on_picture(lambda picture, text: text)(None, "a" * 100_000)


def test_only_recent_results_are_kept() -> None:
    made: list[str] = []
    recent: Recent[str] = Recent(most=2)

    def ask(key: str) -> str:
        return recent.get(key, lambda: made.append(key) or key)

    for key in ("a", "b", "a", "c", "a", "b"):
        assert ask(key) == key
    assert made == ["a", "b", "c", "b"]


class Slow:
    """An answerer that speaks as long as somebody listens."""

    name = "slow"

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.said = 0

    def stream(self, query: Any, listen: Any, max_new_tokens: int = 512) -> str:
        if query.text == "fail":
            raise ValueError("no such word")
        for _ in range(10_000):
            self.said += 1
            listen("word ")
        return ""

    def image_tokens(self, height: int, width: int) -> int | None:
        return height * width


def test_an_answer_ends_when_nobody_listens() -> None:
    answerer = Slow()
    talk = Talk(answerer).ask(Image.new("RGB", (4, 2)), "Hello?", [])  # type: ignore[arg-type]
    asked = [{"role": "user", "content": "Hello?"}]
    assert next(talk) == (asked, "", "The picture (4 x 2 pixels) is 8 image tokens.")
    said, _, _ = next(talk)
    assert said[-1]["content"].startswith("word")
    talk.close()
    count = answerer.said
    assert next(talk, None) is None
    assert answerer.said == count


def test_what_the_model_refuses_reaches_the_visitor() -> None:
    talk = Talk(Slow()).ask(None, "fail", [])  # type: ignore[arg-type]
    next(talk)
    with pytest.raises(ValueError, match="no such word"):
        next(talk)
