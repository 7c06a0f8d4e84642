import subprocess
import sys

import pytest

import radio_llava


def test_every_public_name_leads_somewhere() -> None:
    assert set(radio_llava.__all__) <= set(dir(radio_llava))
    assert all(callable(getattr(radio_llava, name)) for name in radio_llava.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = radio_llava.nothing


def test_the_import_is_light_and_needs_no_llava() -> None:
    code = """
import sys
for name in ("llava", "transformers", "peft"):
    sys.modules[name] = None  # as if it were not installed
import radio_llava
assert "torch" not in sys.modules
for name in radio_llava.__all__:
    getattr(radio_llava, name)
import radio_llava.cli.llava, radio_llava.data, radio_llava.train
try:
    radio_llava.register()
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "pip install 'radio-toolkit[llava]'" in done.stdout
