"""From a model to an ONNX file that is known to compute the same."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from radio_core.export.card import Precision
from radio_core.export.destination import Exported, beside, check_destination
from radio_core.export.onnx_file import (
    EXTRA,
    MAX_INSIDE,
    SIDE_SUFFIX,
    label,
    weight_bytes,
)
from radio_core.export.onnxruntime import OnnxRuntimeEngine
from radio_core.export.parity import TOLERANCES, check_parity, parity_cases, parity_shapes
from radio_core.export.subject import INPUT, Subject, Watch, unwatched
from radio_core.export.trace import trace
from radio_core.extras import require

OLDEST_OPSET = 17
NEWEST_OPSET = 23
DEFAULT_OPSET = 18
_CHATTY = ("torch.onnx", "onnxscript")


def export_onnx(
    subject: Subject,
    path: Path,
    *,
    precision: Precision = "float32",
    opset: int = DEFAULT_OPSET,
    tolerance: float | None = None,
    watch: Watch = unwatched,
) -> Exported:
    """Write an ONNX file, after comparing it with the model.

    onnxruntime runs it at three sizes (one no square) and three batch sizes. Nothing is left of a
    file that differs by more than the tolerance; `path` keeps what it had.

    Args:
        subject: in float32.
        path: ends with .onnx.
        precision: float32 or float16.
        opset: version of ONNX's operators, from 17.
        tolerance: largest error, as a share of an output's largest value; None for the usual one
            of the precision.
        watch: listener.

    Raises:
        ValueError: options that do not fit, a model that cannot be exported; `ParityError` if the
            file computes something else.
        ImportError: the extra "export" is missing.
    """
    check_destination(path, ".onnx")
    check_packages(opset)
    if precision == "bfloat16":
        raise ValueError("onnxruntime cannot check bfloat16: use float32 or float16")
    cases = parity_cases(subject.run, parity_shapes(subject.card), watch)
    with beside(path) as folder:
        draft = folder / path.name
        write_onnx(subject, draft, precision=precision, opset=opset, watch=watch)
        engine = OnnxRuntimeEngine(draft)
        limit = TOLERANCES[precision] if tolerance is None else tolerance
        differences = check_parity(cases, engine.run, limit, "the ONNX file", watch)
        del engine  # it holds the files
        written, side_file = (at.with_name(path.name + SIDE_SUFFIX) for at in (draft, path))
        large = written.exists()
        if large:
            os.replace(written, side_file)
        else:
            side_file.unlink(missing_ok=True)  # of the file that is replaced here
        os.replace(draft, path)
    return Exported(path=path, side_file=side_file if large else None, differences=differences)


def check_packages(opset: int) -> None:
    """Refuse at once what no graph can be written with.

    Raises:
        ValueError: an opset that is too old or not known.
        ImportError: the extra "export" is missing.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, extra=EXTRA)
    newest = min(NEWEST_OPSET, require("onnx.defs", extra=EXTRA).onnx_opset_version())
    if not OLDEST_OPSET <= opset <= newest:
        age = "too old: it has no LayerNormalization" if opset < OLDEST_OPSET else "not known"
        raise ValueError(f"opset {opset} is {age}; use {OLDEST_OPSET} to {newest}")


def write_onnx(
    subject: Subject,
    path: Path,
    *,
    precision: Precision,
    opset: int = DEFAULT_OPSET,
    watch: Watch = unwatched,
) -> None:
    """Write an ONNX file that nobody has compared with the model; see `export_onnx`."""
    watch("tracing", 0, 0)
    prepared = subject.prepared(precision)
    program = trace(prepared)
    watch("translating to ONNX", 0, 0)
    translated = _translated(program, prepared, opset)
    label(translated.model, prepared.card)
    translated.save(str(path), external_data=weight_bytes(translated.model) > MAX_INSIDE)


def _translated(program: torch.export.ExportedProgram, subject: Subject, opset: int) -> Any:
    with _quiet():
        translated: Any = torch.onnx.export(
            program,
            (),
            opset_version=opset,
            dynamo=True,
            optimize=True,
            input_names=[INPUT],
            output_names=list(subject.card.outputs),
            verbose=False,
        )
    written = translated.model.opset_imports.get("", 0)
    if written != opset:
        raise ValueError(f"torch cannot write opset {opset}, only {written}: leave out --opset")
    return translated


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says about itself, and about the conversion to the opset."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
