"""The package and its command as a user meets them, gradio or not."""

import subprocess
import sys

import pytest

import radio_demos
from radio_core import cli
from radio_demos.cli import DemoOptions


def test_the_import_is_light_and_names_the_extra_where_gradio_is_missing() -> None:
    code = """
import sys
sys.modules["gradio"] = None  # as if it were not installed
import radio_demos
assert "torch" not in sys.modules
try:
    radio_demos.build_features
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "radio-toolkit[demo]" in done.stdout


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert set(radio_demos.__all__) <= set(dir(radio_demos))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = radio_demos.nothing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "0"], "between 1 and 65535"),
        (["--auth", "me"], "USER:PASSWORD"),
        (["--auth", ":x"], "USER:PASSWORD"),
        (["chat", "--llava", "nowhere"], "no such directory"),
    ],
)
def test_wrong_options_are_explained(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_password_may_hold_colons() -> None:
    assert DemoOptions(auth="me:a:b").credentials == ("me", "a:b")
    assert DemoOptions().credentials is None
    assert DemoOptions().host == "127.0.0.1"
    assert DemoOptions().share is False
