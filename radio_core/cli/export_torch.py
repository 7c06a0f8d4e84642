"""A model as a package of torch.export, compared with the model."""

from collections.abc import Sequence
from dataclasses import dataclass

from radio_core.cli import parse
from radio_core.cli.export_options import ExportOptions, report, watching
from radio_core.export.card import Precision
from radio_core.export.destination import check_destination
from radio_core.export.torch_program import export_torch


@dataclass(frozen=True, kw_only=True)
class TorchOptions(ExportOptions):
    """Write a model as a package of torch.export, for torch without this toolkit.

    Batch size, height and width stay open. `torch.export.load(FILE).module(check_guards=False)`
    is the model: images [B, 3, H, W] in [0, 1] to the tuple of outputs.
    """

    precision: Precision = "float32"
    """In which it computes."""


def main(argv: Sequence[str]) -> int:
    """Run `radio export torch MODEL OUT.pt2`; returns the exit code."""
    options = parse(TorchOptions, argv, prog="radio export torch")
    check_destination(options.out, ".pt2")
    with watching() as watch:
        subject = options.subject()
        done = export_torch(
            subject,
            options.out,
            precision=options.precision,
            tolerance=options.tolerance,
            watch=watch,
        )
    report(done, subject.card, options.json)
    return 0
