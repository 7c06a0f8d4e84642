"""The package radio_clip as a user imports it."""

import subprocess
import sys

import pytest

import radio_clip


def test_every_public_name_leads_somewhere() -> None:
    assert set(radio_clip.__all__) <= set(dir(radio_clip))
    assert all(callable(getattr(radio_clip, name)) for name in radio_clip.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = radio_clip.nothing


def test_the_import_is_light_and_needs_no_open_clip() -> None:
    code = """
import sys
sys.modules["open_clip"] = None  # as if it were not installed
import radio_clip
assert "torch" not in sys.modules
for name in radio_clip.__all__:
    getattr(radio_clip, name)
try:
    radio_clip.load_radio_clip("toy")
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "radio-toolkit[clip]" in done.stdout
