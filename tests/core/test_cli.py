"""The ``radio`` command: what it lists, what it answers and how it fails."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import radio_core
from radio_core import cli
from radio_core.cli import UsageError

Register = Callable[[str], None]


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Register]:
    """Make ``radio example`` a command whose ``main(argv)`` has the given body."""

    def write(body: str) -> None:
        source = (
            '"""Do the example thing.\n\nMore about it.\n"""\n'
            "from radio_core.cli import UsageError\n"
            f"def main(argv):\n    {body}\n"
        )
        (tmp_path / "example_command.py").write_text(source)

    entry = EntryPoint("example", "example_command:main", cli.GROUP)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cli, "entry_points", lambda group: [entry])
    monkeypatch.delenv("RADIO_DEBUG", raising=False)
    yield write
    sys.modules.pop("example_command", None)


def test_help_shows_the_first_docstring_line_without_importing(
    register: Register, capsys: pytest.CaptureFixture[str]
) -> None:
    register("return 0")
    assert cli.main(["--help"]) == 0
    assert "  example  Do the example thing.\n" in capsys.readouterr().out
    assert "example_command" not in sys.modules


def test_no_command_prints_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage: radio COMMAND" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"radio {radio_core.__version__}\n"


def test_unknown_command_lists_the_known_and_the_nearest(
    register: Register, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["exmaple"]) == 2
    error = capsys.readouterr().err
    assert "Did you mean 'example'?" in error
    assert "Known: example" in error


def test_arguments_and_exit_code_pass_through(
    register: Register, capsys: pytest.CaptureFixture[str]
) -> None:
    register("print(argv); return 7")
    assert cli.main(["example", "--a", "b"]) == 7
    assert capsys.readouterr().out == "['--a', 'b']\n"


@pytest.mark.parametrize(
    ("body", "code", "line"),
    [
        ("raise ValueError('size 5:\\n  use 4')", 1, "radio example: size 5: use 4"),
        ("open('/no/such/file')", 1, "No such file or directory: '/no/such/file'"),
        ("import no_such_module", 1, "No module named 'no_such_module'"),
        ("raise RuntimeError", 1, "radio example: RuntimeError"),
        ("raise UsageError('no recipe x')", 2, "radio example: no recipe x"),
        ("raise KeyboardInterrupt", 1, "radio example: interrupted"),
        ("raise SystemExit('stopped')", 1, "stopped"),
        ("raise SystemExit(2)", 2, ""),
        ("raise SystemExit", 0, ""),
    ],
)
def test_what_a_command_raises_becomes_one_line(
    register: Register, capsys: pytest.CaptureFixture[str], body: str, code: int, line: str
) -> None:
    register(body)
    assert cli.main(["example"]) == code
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == (1 if line else 0)


def test_debug_shows_the_traceback(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    register("raise UsageError('no recipe x')")
    monkeypatch.setenv("RADIO_DEBUG", "1")
    with pytest.raises(UsageError, match="no recipe x"):
        cli.main(["example"])


def test_a_defect_is_not_hidden(register: Register) -> None:
    register("return [][0]")
    with pytest.raises(IndexError):
        cli.main(["example"])


def test_a_closed_pipe_is_no_traceback(register: Register, tmp_path: Path) -> None:
    register("print('x' * 100_000); print('y' * 100_000); return 0")
    code = (
        "import sys; from importlib.metadata import EntryPoint; from radio_core import cli\n"
        "sys.exit(cli.run_command(EntryPoint('e', 'example_command:main', 'g'), []))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    reader = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert reader.stdout is not None
    reader.stdout.close()
    _, error = reader.communicate(timeout=60)
    assert (reader.returncode, error) == (1, b"")


def test_two_packages_with_the_same_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [EntryPoint("train", f"{name}:main", cli.GROUP) for name in ("one", "other")]
    monkeypatch.setattr(cli, "entry_points", lambda group: pair)
    assert cli.main(["train"]) == 1
    assert "one:main and other:main" in capsys.readouterr().err


def test_summary_of_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "undocumented_module.py").write_text("x = 1\n")
    (tmp_path / "misspelt_module.py").write_text('"""Line."""\nx = = 1\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert cli.summary("no_such_package.command") == "(not installed)"
    assert cli.summary("json.no_such_module") == "(not installed)"
    assert cli.summary("undocumented_module") == ""
    assert cli.summary("misspelt_module") == ""


def test_lazy_names_say_what_is_unknown() -> None:
    assert set(radio_core.__all__) <= set(dir(radio_core))
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        _ = radio_core.load_modle


@pytest.mark.parametrize("name", radio_core.__all__)
def test_lazy_names_exist(name: str) -> None:
    assert getattr(radio_core, name) is not None
