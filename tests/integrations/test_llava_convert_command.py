"""What the commands that write models say of bad input; that they work is tested with training."""

from pathlib import Path

import pytest

from radio_core.cli import UsageError
from radio_llava.cli import convert, merge


@pytest.mark.parametrize("command", [convert.main, merge.main])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_destination_with_something_in_it_is_refused(
    command: object, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    destination = tmp_path / "there" / ("file" if kind == "file" else ".")
    argv = [str(tmp_path / "llava"), str(destination)]
    argv += ["--base", "llama"] if command is merge.main else []
    with pytest.raises(UsageError, match="is not empty: name a new directory"):
        command(argv)  # type: ignore[operator]


def test_a_source_that_is_no_llava_is_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'llava'")
    with pytest.raises(FileNotFoundError, match=r"no config\.json in .*nowhere"):
        convert.main([str(tmp_path / "nowhere"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
