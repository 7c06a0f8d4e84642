"""A model as an ONNX file, compared with the model by onnxruntime."""

from collections.abc import Sequence
from dataclasses import dataclass

from radio_core.cli import parse
from radio_core.cli.export_options import ExportOptions, report, watching
from radio_core.export.destination import check_destination
from radio_core.export.onnx import DEFAULT_OPSET, check_packages, export_onnx


@dataclass(frozen=True, kw_only=True)
class OnnxOptions(ExportOptions):
    """Write a model as an ONNX file.

    Batch size, height and width stay open. onnxruntime runs the file at three sizes and batch
    sizes, and a file that computes something else than the model is not left. For example:

    radio export onnx radio_h radio_h.onnx --adaptors clip,sam
    """

    fp16: bool = False
    """Compute in float16: half the size, for GPUs."""
    opset: int = DEFAULT_OPSET
    """Version of ONNX's operators, from 17."""


def main(argv: Sequence[str]) -> int:
    """Run `radio export onnx MODEL OUT.onnx`; returns the exit code."""
    options = parse(OnnxOptions, argv, prog="radio export onnx")
    check_destination(options.out, ".onnx")
    check_packages(options.opset)
    with watching() as watch:
        subject = options.subject()
        done = export_onnx(
            subject,
            options.out,
            precision="float16" if options.fp16 else "float32",
            opset=options.opset,
            tolerance=options.tolerance,
            watch=watch,
        )
    report(done, subject.card, options.json)
    return 0
