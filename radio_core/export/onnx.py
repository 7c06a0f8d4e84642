"""ONNX files: written with a card inside, read without trusting them, and run by onnxruntime."""

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radio_core.export.card import CARD_KEY, ExportCard, Precision, read_card
from radio_core.export.exportable import Exportable
from radio_core.export.graph import INPUT, trace
from radio_core.export.parity import Exported, Parity, check_destination, draft, parity_shapes
from radio_core.extras import require
from radio_core.progress import Progress, silent

EXTRA = "export"
OLDEST_OPSET = 17
NEWEST_OPSET = 23
DEFAULT_OPSET = 18
MAX_INSIDE = 2**31 - 2**24
"""Bytes of weights that one ONNX file can hold (2 GiB, less some for the graph)."""

SIDE_SUFFIX = ".data"
_OWN_DOMAINS = ("", "ai.onnx")
_SYMBOL = re.compile(r"\bs\d+\b")
_CUDA = "CUDAExecutionProvider"


def export_onnx(
    exportable: Exportable,
    path: Path,
    *,
    precision: Precision = "float32",
    opset: int = DEFAULT_OPSET,
    tolerance: float | None = None,
    progress: Progress = silent,
) -> Exported:
    """Write an ONNX file, after comparing it with the model.

    onnxruntime runs it at three sizes (one no square) and three batch sizes. Nothing is left of a
    file that differs by more than the tolerance; `path` keeps what it had.

    Args:
        exportable: in float32.
        path: ends with .onnx.
        precision: float32 or float16.
        opset: version of ONNX's operators, from 17.
        tolerance: largest error, as a share of an output's largest value; None for the usual one
            of the precision.
        progress: listener.

    Raises:
        ValueError: options that do not fit, a model that cannot be exported; `ParityError` if the
            file computes something else.
        ImportError: the extra "export" is missing.
    """
    check_destination(path, ".onnx")
    check_packages(opset)
    if precision == "bfloat16":
        raise ValueError("onnxruntime cannot check bfloat16: use float32 or float16")
    parity = Parity(exportable.run, parity_shapes(exportable.card), progress)
    with draft(path, SIDE_SUFFIX) as written:
        write_onnx(exportable, written, precision=precision, opset=opset, progress=progress)
        engine = OnnxRuntimeEngine(written)
        differences = parity.check(engine, "the ONNX file", tolerance, progress)
        card = engine.card
        del engine  # it holds the files
    side = path.with_name(path.name + SIDE_SUFFIX)
    return Exported(
        path=path, card=card, side_file=side if side.exists() else None, differences=differences
    )


def check_packages(opset: int = DEFAULT_OPSET) -> None:
    """Refuse, by ImportError or ValueError, missing packages and opsets that cannot be written."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, extra=EXTRA)
    newest = min(NEWEST_OPSET, require("onnx.defs", extra=EXTRA).onnx_opset_version())
    if not OLDEST_OPSET <= opset <= newest:
        age = "too old: it has no LayerNormalization" if opset < OLDEST_OPSET else "not known"
        raise ValueError(f"opset {opset} is {age}; use {OLDEST_OPSET} to {newest}")


def write_onnx(
    exportable: Exportable,
    path: Path,
    *,
    precision: Precision,
    opset: int = DEFAULT_OPSET,
    progress: Progress = silent,
) -> None:
    """Write an ONNX file that nobody has compared with the model; see `export_onnx`."""
    progress("tracing", 0, None)
    prepared = exportable.prepared(precision)
    program = trace(prepared)
    progress("translating to ONNX", 0, None)
    with _quiet():
        translated: Any = torch.onnx.export(
            program,
            (),
            opset_version=opset,
            dynamo=True,
            optimize=True,
            input_names=[INPUT],
            output_names=list(prepared.card.outputs),
            verbose=False,
        )
    model = translated.model
    found = model.opset_imports.get("", 0)
    if found != opset:
        raise ValueError(f"torch cannot write opset {opset}, only {found}: leave out --opset")
    _label(model, prepared.card)
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    translated.save(str(path), external_data=weights > MAX_INSIDE)


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
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


def _label(model: Any, card: ExportCard) -> None:
    """Put the card into an `onnx_ir.Model`, name its sizes after what they are, and remove what
    torch notes about each node (source lines and the paths of their files)."""
    model.producer_name, model.producer_version = "radio-toolkit", card.toolkit
    graph = model.graph
    values = [*graph.inputs, *graph.initializers.values()]
    values += [value for node in graph for value in node.outputs]
    for part in (model, graph, *graph, *values):
        part.metadata_props.clear()
    model.metadata_props[CARD_KEY] = card.to_json()

    def symbols(shape: Any) -> list[Any]:
        return [getattr(size, "value", size) for size in shape]

    names: dict[str, str] = {}
    sides = symbols(graph.inputs[0].shape)
    for index, name in ((0, "batch"), (2, "height"), (3, "width")):
        if found := _SYMBOL.search(str(sides[index])):
            names[found[0]] = name if found[0] == sides[index] else f"{name}_steps"
    for value in values:
        if value.shape is not None:
            value.shape = type(value.shape)(
                _SYMBOL.sub(lambda match: names.get(match[0], match[0]), size)
                if isinstance(size, str)
                else size
                for size in symbols(value.shape)
            )


def read_onnx_card(path: Path) -> ExportCard:
    """The card of an ONNX file, after checks that make it safe to give it to onnxruntime.

    ValueError for a file that is not ours, weights outside of its folder, or operators that only a
    library of somebody else's has.
    """
    onnx = require("onnx", extra=EXTRA)
    decode_error = require("google.protobuf.message", extra=EXTRA).DecodeError
    try:
        model = onnx.load(str(path), load_external_data=False)
    except decode_error as error:
        raise ValueError(f"{path} is not an ONNX file, or is damaged: {error}") from error
    if not model.graph.input:
        raise ValueError(f"{path} is not an ONNX file, or is damaged: it has no input")
    local = {function.domain for function in model.functions}
    foreign = {entry.domain for entry in model.opset_import} - local - set(_OWN_DOMAINS)
    if foreign:
        raise ValueError(f"{path} needs operators of {', '.join(sorted(foreign))}: refused")
    folder = path.resolve().parent
    for location in _external_locations(model):
        target = Path(os.path.realpath(folder / location))
        if not target.is_relative_to(folder):
            raise ValueError(
                f"{path} takes weights from {location!r}, outside of its folder: refused"
            )
        if not target.is_file():
            raise ValueError(f"{path} needs {location!r} beside it; copy both files together")
    properties = {entry.key: entry.value for entry in model.metadata_props}
    card = read_card(properties.get(CARD_KEY), str(path))
    names = tuple(output.name for output in model.graph.output)
    if model.graph.input[0].name != INPUT or names != card.outputs:
        raise ValueError(f"{path} is damaged: its outputs {names} are not those that it names")
    return card


def _external_locations(message: Any) -> Iterator[str]:
    """The files that any tensor anywhere in a protobuf message takes its values from."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield from (entry.value for entry in message.external_data if entry.key == "location")
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for child in [value] if hasattr(value, "DESCRIPTOR") else value:
                yield from _external_locations(child)


class OnnxRuntimeEngine:
    """A session of onnxruntime. No library of foreign operators is ever loaded.

    Args:
        path: the ONNX file; a side file with its weights may belong to it.
        device: "cpu", or "cuda" with the package onnxruntime-gpu.
        threads: of a CPU; None for onnxruntime's own choice.
    """

    def __init__(
        self, path: Path, device: str | torch.device = "cpu", threads: int | None = None
    ) -> None:
        self.card: ExportCard = read_onnx_card(path)
        self.device = torch.device(device)
        side = path.with_name(path.name + SIDE_SUFFIX)
        self.files: tuple[Path, ...] = (path, side) if side.is_file() else (path,)
        runtime = require("onnxruntime", extra=EXTRA)
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors
        if threads is not None:
            options.intra_op_num_threads = threads
        providers: list[Any] = ["CPUExecutionProvider"]
        if self.device.type not in ("cpu", "cuda"):
            raise ValueError(f"onnxruntime runs on cpu or cuda, not on {self.device}")
        if self.device.type == "cuda":
            if not has_cuda():
                raise ValueError(
                    "this onnxruntime has no CUDA: install onnxruntime-gpu in its place, or use cpu"
                )
            # TF32's 10 bits would not pass for float32.
            providers.insert(0, (_CUDA, {"device_id": self.device.index or 0, "use_tf32": 0}))
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # a class of its own for each kind, with no common one
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"onnxruntime refuses {path}: {reason}") from error
        # It goes on without a provider whose libraries it does not find.
        if self.device.type == "cuda" and _CUDA not in self._session.get_providers():
            raise ValueError(
                "onnxruntime cannot use the GPU: its CUDA or cuDNN libraries are missing or of "
                "another version; repair them, or use cpu"
            )

    def run(self, images: Tensor) -> dict[str, Tensor]:
        """Float32 images [B, 3, H, W] to output name -> float32 tensor, on the CPU."""
        feed = {INPUT: images.detach().cpu().contiguous().numpy()}
        found = self._session.run(list(self.card.outputs), feed)
        return dict(zip(self.card.outputs, map(torch.from_numpy, found), strict=True))


def has_cuda() -> bool:
    """True where the installed onnxruntime is one for GPUs."""
    return _CUDA in require("onnxruntime", extra=EXTRA).get_available_providers()
