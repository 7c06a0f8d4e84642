"""LLaVA-1.5 with RADIO as its vision tower: radio llava {train,chat,eval,quickstart,...} ..."""

from collections.abc import Sequence

from radio_core.cli import run_action

GROUP = "radio.llava"
"""Entry point group of the actions."""


def main(argv: Sequence[str]) -> int:
    """Run `radio llava ACTION ...`; returns the exit code."""
    return run_action(GROUP, "radio llava", argv)
