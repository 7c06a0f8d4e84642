"""What every test may use."""

import os
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
