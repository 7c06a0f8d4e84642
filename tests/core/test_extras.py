"""Optional dependencies."""

import sys
from pathlib import Path

import pytest

from radio_core.extras import require


def test_an_installed_module_is_returned() -> None:
    assert require("json.decoder", extra="clip") is sys.modules["json.decoder"]


def test_a_missing_package_names_the_command_that_installs_it() -> None:
    with pytest.raises(ImportError, match=r"pip install 'radio-toolkit\[clip\]'") as caught:
        require("no_such_package.inner", extra="clip")
    assert caught.value.name == "no_such_package"


def test_a_broken_package_keeps_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency") as caught:
        require("broken_package", extra="clip")
    assert "radio-toolkit" not in str(caught.value)
