"""Every example of docs/extend.md works as it stands: a file on PYTHONPATH and a command."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extend.md"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = {
    title: BLOCK.findall(text)
    for title, _, text in (
        part.partition("\n")
        for part in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    )
    if BLOCK.search(text)
}


def test_there_is_an_example_of_everything() -> None:
    words = ("teacher", "student", "loss", "recipe", "data", "evaluator")
    assert [w for w in words if not any(w in title.lower() for title in SECTIONS)] == []


@pytest.mark.slow
@pytest.mark.parametrize("title", SECTIONS)
def test_an_example_runs(title: str, tmp_path: Path) -> None:
    for module, extra in (
        ("open_clip", "clip"),
        ("transformers", "hf"),
        ("segment_anything", "sam"),
    ):
        pytest.importorskip(module, reason=f"needs the extra {extra!r}")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"}
    environment.pop("RADIO_PLUGINS", None)
    for language, text in SECTIONS[title]:
        named = re.match(r"# (\w+\.py)\n", text)
        if language == "python" and named:
            (tmp_path / named[1]).write_text(text)
        elif language == "python":
            run([sys.executable, "-c", text], tmp_path, environment)
        else:
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line)
                extra = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
                words = words[len(extra) :]
                assert words[0] == "radio"
                command = [sys.executable, "-m", "radio_core.cli", *words[1:]]
                run(command, tmp_path, {**environment, **extra})


def run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
