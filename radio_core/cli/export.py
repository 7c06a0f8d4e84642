"""`radio export {onnx,tensorrt,torch}`: models as files for other runtimes."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from radio_core.cli import UsageError, write_json
from radio_core.config_file import to_mapping
from radio_core.export.card import Precision
from radio_core.export.exportable import Exportable, radio_exportable, vision_exportable
from radio_core.export.onnx import (
    DEFAULT_OPSET,
    OnnxRuntimeEngine,
    check_packages,
    export_onnx,
    read_onnx_card,
)
from radio_core.export.parity import Exported, Parity, check_destination
from radio_core.export.tensorrt import (
    SUFFIX,
    Profile,
    build_engine,
    export_tensorrt,
    find_tensorrt,
    has_timing_cache,
)
from radio_core.export.torch_program import export_torch
from radio_core.models.radio import FeatureFormat, RadioModel
from radio_core.progress import rich_progress
from radio_core.registry import Registry
from radio_core.teachers import is_teacher, load_teacher
from radio_core.zoo.load import load_model

Purpose = Callable[[RadioModel, str, str, tuple[int, int] | None], Exportable]
"""Called as purpose(model, its name, SOURCE of `--for PURPOSE=SOURCE`, size or None)."""

PURPOSES: Registry[Purpose] = Registry("radio.export.for", "purpose of --for")
"""What the parts of a model are for."""

_SIZE = re.compile(r"(\d{1,5})(?:x(\d{1,5}))?")
_PRECISIONS: dict[str, Precision] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_OF_MODELS = {
    "adaptors": "",
    "window_size": None,
    "num_windowed": None,
    "feature_fmt": "NCHW",
    "size": "",
    "purpose": "",
    "precision": "fp32",
}
"""Options about a model, with their defaults; an ONNX file in its place has decided them."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What every export takes."""

    model: Annotated[str, tyro.conf.Positional]
    """A release ("radio_h"), a file or folder with a RADIO model, or a hub id; or a teacher
    ("dinov2:facebook/dinov2-base"), for images of one size."""
    out: Annotated[Path, tyro.conf.Positional]
    """The file to write."""
    adaptors: str = ""
    """Adaptors that the file shall have besides the backbone, for example clip,sam."""
    window_size: int | None = None
    """Side in patches of the attention windows; none for global attention."""
    num_windowed: int | None = None
    """Windowed layers between two global ones, instead of the model's own schedule."""
    size: str = ""
    """SIDE or HEIGHTxWIDTH in pixels of the only images that the file shall take; any if empty, of
    a teacher its own square."""
    feature_fmt: FeatureFormat = "NCHW"
    """Features as maps [B, C, h, w] or as tokens [B, N, C]."""
    purpose: Annotated[str, tyro.conf.arg(name="for")] = ""
    """A part of the model for one purpose: "sam=SAM" is the image encoder of that Segment
    Anything, RADIO with SAM's neck; SAM is toy-sam or vit_h:CHECKPOINT, for example. Or
    "MODULE:FUNCTION=SOURCE" of your own."""
    tolerance: float | None = None
    """Largest error that is accepted, as a share of an output's largest value."""
    json: Path | None = None
    """Also write what was done to this file."""

    def exportable(self) -> Exportable:
        """Load the model and put together what is exported."""
        size = None
        if self.size:
            match = _SIZE.fullmatch(self.size)
            if match is None:
                raise UsageError(f"--size is SIDE or HEIGHTxWIDTH in pixels, not {self.size!r}")
            size = (int(match[1]), int(match[2] or match[1]))
        word, _, source = self.purpose.partition("=")
        purpose = PURPOSES.load(word) if word else None
        names = [name.strip() for name in self.adaptors.split(",") if name.strip()]
        if purpose and (names or self.feature_fmt != "NCHW"):
            raise UsageError(
                f"--for {word} decides about outputs: leave out --adaptors and --feature-fmt"
            )
        if is_teacher(self.model) and not self.model.startswith("radio:"):
            if given := self.given("size", "precision"):
                raise UsageError(f"only RADIO models have {', '.join(given)}")
            return vision_exportable(load_teacher(self.model), size)
        model = load_model(
            self.model,
            window_size=self.window_size,
            num_windowed=self.num_windowed,
            dtype=torch.float32,
        )
        name = model.config.name or Path(self.model).name
        if purpose:
            return purpose(model, name, source, size)
        return radio_exportable(
            model, name=name, adaptors=names, size=size, feature_fmt=self.feature_fmt
        )

    def given(self, *besides: str) -> list[str]:
        """The flags of `_OF_MODELS`, but some, that have another value than by default."""
        names = [name for name in _OF_MODELS if name not in besides]
        given = [name for name in names if getattr(self, name) != _OF_MODELS[name]]
        return ["--for" if n == "purpose" else f"--{n.replace('_', '-')}" for n in given]


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


def onnx(options: OnnxOptions) -> int:
    """Write a model as an ONNX file, compared with the model by onnxruntime."""
    check_destination(options.out, ".onnx")
    check_packages(options.opset)
    with rich_progress() as progress:
        done = export_onnx(
            options.exportable(),
            options.out,
            precision="float16" if options.fp16 else "float32",
            opset=options.opset,
            tolerance=options.tolerance,
            progress=progress,
        )
    _report(done, options.json)
    return 0


@dataclass(frozen=True, kw_only=True)
class TorchOptions(ExportOptions):
    """Write a model as a package of torch.export, for torch without this toolkit.

    Batch size, height and width stay open. `torch.export.load(FILE).module(check_guards=False)`
    is the model: images [B, 3, H, W] in [0, 1] to the tuple of outputs.
    """

    precision: Precision = "float32"
    """In which it computes."""


def torch_package(options: TorchOptions) -> int:
    """Write a model as a package of torch.export, compared with the model."""
    check_destination(options.out, ".pt2")
    with rich_progress() as progress:
        done = export_torch(
            options.exportable(),
            options.out,
            precision=options.precision,
            tolerance=options.tolerance,
            progress=progress,
        )
    _report(done, options.json)
    return 0


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


def tensorrt(options: TensorRTOptions) -> int:
    """Build an engine of TensorRT from a model or an ONNX file."""
    try:
        profile = Profile.parse(vars(options))
    except ValueError as error:
        raise UsageError(str(error)) from None
    graph = Path(options.model) if options.model.endswith(".onnx") else None
    if graph is not None and (given := options.given()):
        flags = ", ".join(given)
        raise UsageError(f"an ONNX file is as it is: leave out {flags}, or export the model itself")
    check_destination(options.out, SUFFIX)
    package = find_tensorrt()
    with rich_progress() as progress:
        if graph is not None:
            if not graph.is_file():
                raise FileNotFoundError(f"no file {graph}")
            parity = None
            if torch.cuda.is_available():
                profile.check(read_onnx_card(graph))
                parity = Parity(OnnxRuntimeEngine(graph).run, profile.shapes, progress)
            done = build_engine(
                graph,
                options.out,
                profile,
                parity=parity,
                timing_cache=options.timing_cache,
                tolerance=options.tolerance,
                progress=progress,
            )
        else:
            done = export_tensorrt(
                options.exportable(),
                options.out,
                profile,
                precision=_PRECISIONS[options.precision],
                timing_cache=options.timing_cache,
                tolerance=options.tolerance,
                progress=progress,
            )
    _report(done, options.json)
    print(f"built by {done.builder} in {done.seconds:.1f} s")
    if options.timing_cache is not None and not has_timing_cache(package):
        print("--timing-cache has no effect: tensorrt_rtx takes no timings when it builds")
    if not done.ran:
        print("built and not run: torch finds no GPU here")
    return 0


def _report(done: Exported, json: Path | None) -> None:
    """Say what was written, and how far it is from the model."""
    card = done.card
    side = f" and {done.side_file.name}, which must stay beside it" if done.side_file else ""
    size = "any size" if card.fixed_size is None else "x".join(map(str, card.fixed_size))
    print(f"wrote {done.path}{side} ({done.bytes / 1e6:.1f} MB)")
    print(f"takes images of {size}, sides multiples of {card.resolution_step} pixels")
    print(f"outputs: {', '.join(card.outputs)}")
    for difference in done.differences:
        print(
            f"largest difference from the model at {difference.case}: {difference.error:.1e} "
            f"of the largest value, in {difference.output}"
        )
    write_json(json, {**to_mapping(done), "bytes": done.bytes})
