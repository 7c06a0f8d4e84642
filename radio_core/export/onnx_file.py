"""ONNX files: written with a card inside, and read without trusting them."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from radio_core.export.card import CARD_KEY, ExportCard, read_card
from radio_core.export.subject import INPUT
from radio_core.extras import require

EXTRA = "export"
MAX_INSIDE = 2**31 - 2**24
"""Bytes of weights that one ONNX file can hold (2 GiB, less some for the graph)."""

SIDE_SUFFIX = ".data"
_OWN_DOMAINS = ("", "ai.onnx")
_SYMBOL = re.compile(r"\bs\d+\b")


def label(model: Any, card: ExportCard) -> None:
    """Put the card into an `onnx_ir.Model`, and name its sizes after what they are.

    What torch notes about each node (source lines and the paths of their files) is removed.
    """
    model.producer_name, model.producer_version = "radio-toolkit", card.toolkit
    graph = model.graph
    values = [*graph.inputs, *graph.initializers.values()]
    values += [value for node in graph for value in node.outputs]
    for part in (model, graph, *graph, *values):
        part.metadata_props.clear()
    model.metadata_props[CARD_KEY] = card.to_json()
    _name_sizes(graph.inputs[0].shape, values)


def _name_sizes(shape: Any, values: Iterable[Any]) -> None:
    """Sizes called batch, height and width at the input's shape, and made of these elsewhere."""
    names: dict[str, str] = {}
    for index, name in ((0, "batch"), (2, "height"), (3, "width")):
        symbol = str(getattr(shape[index], "value", shape[index]))
        if found := _SYMBOL.search(symbol):
            names[found[0]] = name if found[0] == symbol else f"{name}_steps"

    def renamed(match: re.Match[str]) -> str:
        return names.get(match[0], match[0])

    for value in values:
        if value.shape is not None:
            sizes = [getattr(size, "value", size) for size in value.shape]
            sizes = [_SYMBOL.sub(renamed, s) if isinstance(s, str) else s for s in sizes]
            value.shape = type(value.shape)(sizes)


def weight_bytes(model: Any) -> int:
    """Bytes of the weights of an `onnx_ir.Model`."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values())


def read_onnx_card(path: Path) -> ExportCard:
    """The card of an ONNX file, after checks that make it safe to give it to onnxruntime.

    Raises:
        ValueError: not an ONNX file of ours, weights outside of its folder, or operators that
            only a library of somebody else's has.
        OSError: the file cannot be read.
        ImportError: the extra "export" is missing.
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
    for location in _external_locations(model):
        _check_inside(path, location)
    properties: Mapping[str, str] = {entry.key: entry.value for entry in model.metadata_props}
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
        if field.type != field.TYPE_MESSAGE:
            continue
        for child in [value] if hasattr(value, "DESCRIPTOR") else value:
            yield from _external_locations(child)


def _check_inside(path: Path, location: str) -> None:
    """Raise ValueError unless `location` is an existing plain file in the folder of `path`."""
    folder = path.resolve().parent
    target = Path(os.path.realpath(folder / location))
    if not target.is_relative_to(folder):
        raise ValueError(f"{path} takes weights from {location!r}, outside of its folder: refused")
    if not target.is_file():
        raise ValueError(f"{path} needs {location!r} beside it; copy both files together")
