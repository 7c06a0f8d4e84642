"""The ``radio`` command: what it lists, what it answers and how it fails."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import radio_core
from radio_core import cli, registry
from radio_core.cli import UsageError
from radio_core.registry import Registry

Register = Callable[[str], None]


def install(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> None:
    """Make these the commands that are installed."""
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    monkeypatch.setattr(cli, "COMMANDS", Registry("radio.commands", "command"))


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Register]:
    """Make ``radio example`` a command whose ``main(argv)`` has the given body."""

    def write(body: str) -> None:
        source = (
            "from radio_core.cli import UsageError\n"
            f'def main(argv):\n    """Do the example thing.\n\n    More.\n    """\n    {body}\n'
        )
        (tmp_path / "example_command.py").write_text(source)

    install(monkeypatch, EntryPoint("example", "example_command:main", cli.COMMANDS.group))
    monkeypatch.syspath_prepend(tmp_path)
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
    assert "did you mean 'example'" in error
    assert "known: example" in error


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
        "import sys\nfrom importlib.metadata import EntryPoint\n"
        "from radio_core import cli, registry\n"
        "registry.entry_points = lambda group: [EntryPoint('e', 'example_command:main', 'g')]\n"
        "sys.exit(cli.main(['e']))"
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
    install(monkeypatch, *(EntryPoint("train", f"{name}:main", "g") for name in ("one", "other")))
    assert cli.main(["train"]) == 1
    assert "one:main and other:main" in capsys.readouterr().err


def test_help_of_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "undocumented_module.py").write_text("def main(argv): return 0\n")
    (tmp_path / "misspelt_module.py").write_text('"""Line."""\nx = = 1\n')
    monkeypatch.syspath_prepend(tmp_path)
    places = ("no_such_package.command", "json.no_such", "undocumented_module", "misspelt_module")
    install(monkeypatch, *(EntryPoint(f"a.c{n}", f"{p}:main", "g") for n, p in enumerate(places)))
    assert cli.main(["a", "--help"]) == 0
    out = capsys.readouterr().out
    assert [line.split(maxsplit=1)[1:] for line in out.splitlines() if line.startswith("  c")] == [
        ["(not installed)"],
        ["(not installed)"],
        [],
        [],
    ]


def test_actions_below_a_command(
    register: Register, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register("print(argv); return 0")
    install(monkeypatch, EntryPoint("do.this", "example_command:main", "g"))
    assert cli.main(["do", "this", "that"]) == 0
    assert cli.main(["do"]) == 2
    assert cli.main(["do", "tihs"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "['that']\n"
    assert "radio do: unknown action 'tihs' (did you mean 'this'?); known: this" in captured.err


def test_a_dataclass_becomes_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flagged_command.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Options:\n    size: int = 3\n"
        "def run(options: Options) -> int:\n    print(options.size); return 0\n"
    )
    (tmp_path / "size.yaml").write_text("size: 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    install(monkeypatch, EntryPoint("flagged", "flagged_command:run", "g"))
    assert cli.main(["flagged", "--size", "4"]) == 0
    assert cli.main(["flagged", "--config", str(tmp_path / "size.yaml")]) == 0
    assert cli.main(["flagged", "--sise", "4"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "4\n5\n"
    assert "did you mean --size?" in captured.err


def test_lazy_names_say_what_is_unknown() -> None:
    assert set(radio_core.__all__) <= set(dir(radio_core))
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        _ = radio_core.load_modle


@pytest.mark.parametrize("name", radio_core.__all__)
def test_lazy_names_exist(name: str) -> None:
    assert getattr(radio_core, name) is not None
