"""What importing radio_llava.hf costs and needs."""

import subprocess
import sys

import pytest


def printed(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_importing_it_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, radio_llava.hf; print({'torch', 'transformers'} & set(sys.modules))"
    assert printed(code) == "set()"


def test_without_transformers_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['transformers'] = None; import radio_llava.hf\n"
        "try: radio_llava.hf.register\n"
        "except ImportError as error: print(error)"
    )
    assert "pip install 'radio-toolkit[llava]'" in printed(code)


def test_versions_of_transformers_that_are_too_old_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'llava'")
    from radio_llava.hf import register

    monkeypatch.delattr(transformers.ProcessorMixin, "replace_image_token")
    message = rf"transformers {transformers.__version__} is too old .*transformers>=5\.17"
    with pytest.raises(ImportError, match=message):
        register()


def test_older_versions_are_named_before_what_they_lack_is_imported() -> None:
    code = """
import types, sys
old = types.ModuleType("transformers")
old.__version__, old.ProcessorMixin = "4.46.3", object
sys.modules["transformers"] = old
import radio_llava.hf
try: radio_llava.hf.load_llava
except ImportError as error: print(error)
"""
    assert "transformers 4.46.3 is too old" in printed(code)
