"""The package radio_sam as a user imports it."""

import subprocess
import sys

import pytest

import radio_sam


def test_every_public_name_leads_somewhere() -> None:
    assert set(radio_sam.__all__) <= set(dir(radio_sam))
    assert all(callable(getattr(radio_sam, name)) for name in radio_sam.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = radio_sam.nothing


def test_the_import_is_light_and_needs_no_segment_anything() -> None:
    code = """
import sys
sys.modules["segment_anything"] = None  # as if it were not installed
import radio_sam
assert "torch" not in sys.modules
for name in radio_sam.__all__:
    getattr(radio_sam, name)
try:
    radio_sam.load_radio_sam()
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "radio-toolkit[sam]" in done.stdout
