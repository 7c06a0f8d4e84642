"""Measure speed: radio bench {throughput,sam,load,train-step,knn} ..."""

from collections.abc import Sequence

from radio_core.cli import run_action

GROUP = "radio.bench"
"""Entry point group of the actions."""


def main(argv: Sequence[str]) -> int:
    """Run `radio bench ACTION ...`; returns the exit code."""
    return run_action(GROUP, "radio bench", argv)
