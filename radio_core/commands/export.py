"""Write models as files for other runtimes: radio export {onnx,tensorrt,torch} ..."""

from collections.abc import Sequence

from radio_core.cli import run_action

GROUP = "radio.export"
"""Entry point group of the actions."""


def main(argv: Sequence[str]) -> int:
    """Run `radio export ACTION ...`; returns the exit code."""
    return run_action(GROUP, "radio export", argv)
