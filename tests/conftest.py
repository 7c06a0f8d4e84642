"""What every test may use."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference fixtures: RADIO_SHARED, or ``shared`` beside the checkout."""
    named = os.environ.get("RADIO_SHARED")
    folder = Path(named) if named else CHECKOUT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no reference folder at {folder}; set RADIO_SHARED to where it is")
    return folder


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the source tree."""
    return CHECKOUT


@pytest.fixture
def run_radio(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """run_radio(*arguments): run a command line; returns the exit code and all that it printed."""
    from radio_core import cli

    monkeypatch.delenv("RADIO_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "4000")  # rich and tyro wrap at the terminal's width

    def run(*arguments: object) -> tuple[int, str]:
        code = cli.main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return code, output.out + output.err

    return run
