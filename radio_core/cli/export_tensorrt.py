"""A model or an ONNX file as an engine of TensorRT."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from radio_core.cli import UsageError, parse
from radio_core.cli.export_options import ExportOptions, report, watching
from radio_core.export.card import ExportCard, Precision
from radio_core.export.destination import check_destination
from radio_core.export.onnx_file import read_onnx_card
from radio_core.export.onnxruntime import OnnxRuntimeEngine
from radio_core.export.parity import parity_cases
from radio_core.export.profile import Profile, parse_shape
from radio_core.export.subject import Watch
from radio_core.export.tensorrt import (
    SUFFIX,
    Built,
    build_engine,
    export_tensorrt,
    find_tensorrt,
    has_timing_cache,
)

_PRECISIONS: dict[str, Precision] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class TensorRTOptions(ExportOptions):
    """Build an engine of TensorRT.

    It takes the shapes from --min to --max, BATCHxHEIGHTxWIDTH each, and is best at --opt. Where
    there is a GPU, it is run and compared with the model. For example:

    radio export tensorrt radio_h radio_h.engine --min 1x224x224 --opt 4x432x432 --max 8x1024x1024
    """

    minimum: Annotated[str, tyro.conf.arg(name="min")]
    """The smallest shape, for example 1x224x224."""
    optimum: Annotated[str, tyro.conf.arg(name="opt")]
    """The shape that it shall be best at."""
    maximum: Annotated[str, tyro.conf.arg(name="max")]
    """The largest shape."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """In which it computes. An ONNX file in the place of the model has its own."""
    timing_cache: Path | None = None
    """Timings of earlier builds, to make this one faster; the file is created or updated. Only for
    the package tensorrt: tensorrt_rtx takes none."""


def main(argv: Sequence[str]) -> int:
    """Run `radio export tensorrt MODEL OUT.engine`; returns the exit code."""
    options = parse(TensorRTOptions, argv, prog="radio export tensorrt")
    try:
        profile = Profile(
            minimum=parse_shape(options.minimum),
            optimum=parse_shape(options.optimum),
            maximum=parse_shape(options.maximum),
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    if options.model.endswith(".onnx"):
        _check_unset(options)
    check_destination(options.out, SUFFIX)
    package = find_tensorrt()
    with watching() as watch:
        if options.model.endswith(".onnx"):
            card, done = _from_graph(options, profile, watch)
        else:
            subject = options.subject()
            card = subject.card
            done = export_tensorrt(
                subject,
                options.out,
                profile,
                precision=_PRECISIONS[options.precision],
                timing_cache=options.timing_cache,
                tolerance=options.tolerance,
                watch=watch,
            )
    report(done, card, options.json)
    print(f"built by {done.builder} in {done.seconds:.1f} s")
    if options.timing_cache is not None and not has_timing_cache(package):
        print("--timing-cache has no effect: tensorrt_rtx takes no timings when it builds")
    if not done.ran:
        print("built and not run: torch finds no GPU here")
    return 0


_USUAL = {
    "precision": "fp32",
    "adaptors": "",
    "window_size": None,
    "num_windowed": None,
    "size": "",
    "feature_fmt": "NCHW",
    "purpose": "",
}
"""What an ONNX file says itself, with the values that the options have when nobody sets them."""


def _check_unset(options: TensorRTOptions) -> None:
    """Refuse what would change nothing."""
    given = [name for name, usual in _USUAL.items() if getattr(options, name) != usual]
    if given:
        flags = ", ".join("--for" if n == "purpose" else f"--{n.replace('_', '-')}" for n in given)
        raise UsageError(f"an ONNX file is as it is: leave out {flags}, or export the model itself")


def _from_graph(
    options: TensorRTOptions, profile: Profile, watch: Watch
) -> tuple[ExportCard, Built]:
    """The engine of an ONNX file that `radio export onnx` wrote."""
    graph = Path(options.model)
    if not graph.is_file():
        raise FileNotFoundError(f"no file {graph}")
    card = read_onnx_card(graph)
    profile.check(card)
    cases = []
    if torch.cuda.is_available():
        cases = parity_cases(OnnxRuntimeEngine(graph).run, profile.shapes, watch)
    done = build_engine(
        graph,
        options.out,
        profile,
        cases=cases,
        timing_cache=options.timing_cache,
        tolerance=options.tolerance,
        watch=watch,
    )
    return card, done
