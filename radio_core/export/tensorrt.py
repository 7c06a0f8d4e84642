"""From a graph to a TensorRT engine, and engines run again.

Everything goes through the Python API that the packages `tensorrt` and `tensorrt-rtx` share. The
networks are strongly typed: an engine computes in the precision that the graph has.
"""

import importlib
import json
import os
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from radio_core.config_file import to_mapping
from radio_core.export.card import CARD_KEY, ExportCard, Precision, read_card
from radio_core.export.exportable import Exportable
from radio_core.export.graph import INPUT
from radio_core.export.onnx import check_packages, export_onnx, read_onnx_card, write_onnx
from radio_core.export.parity import Exported, Parity, check_destination, draft
from radio_core.progress import Progress, silent

SUFFIX = ".engine"
CARD_SUFFIX = ".json"
_PACKAGES = ("tensorrt", "tensorrt_rtx")
_PROFILE_KEY = "profile"
_BOUNDS = ("minimum", "optimum", "maximum")
_SHAPE = re.compile(r"(\d{1,5})x(\d{1,5})x(\d{1,5})")


class Shape(NamedTuple):
    """A batch of images of one size."""

    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.height}x{self.width}"


def parse_shape(text: str) -> Shape:
    """The shape that BATCHxHEIGHTxWIDTH means; ValueError for another form, or a zero."""
    match = _SHAPE.fullmatch(text)
    if match is None or "0" in match.groups():
        raise ValueError(f"a shape is BATCHxHEIGHTxWIDTH, such as 4x432x432, not {text!r}")
    return Shape(*map(int, match.groups()))


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The smallest and the largest shapes that an engine takes, and the one it is best at."""

    minimum: Shape
    optimum: Shape
    maximum: Shape

    def __post_init__(self) -> None:
        for low, high in ((self.minimum, self.optimum), (self.optimum, self.maximum)):
            if any(a > b for a, b in zip(low, high, strict=True)):
                raise ValueError(
                    f"the shapes of a profile must not shrink from min to opt to max: "
                    f"{self.minimum}, {self.optimum}, {self.maximum}"
                )

    @classmethod
    def parse(cls, shapes: Mapping[str, str]) -> "Profile":
        """From texts (`parse_shape`) by the names of the fields; KeyError where one is missing."""
        return cls(**{name: parse_shape(shapes[name]) for name in _BOUNDS})

    @property
    def shapes(self) -> list[Shape]:
        """Its different shapes."""
        return list(dict.fromkeys((self.minimum, self.optimum, self.maximum)))

    def check(self, card: ExportCard) -> None:
        """Raise ValueError where the network does not take a shape, naming the nearest one."""
        for name in _BOUNDS:
            shape: Shape = getattr(self, name)
            try:
                card.check_size(shape.height, shape.width)
            except ValueError as error:
                raise ValueError(f"--{name[:3]} {shape}: {error}") from None

    def check_images(self, images: Tensor) -> None:
        """Raise ValueError unless images [B, 3, H, W] lie between `minimum` and `maximum`."""
        shape = Shape(*(images.shape[dim] for dim in (0, 2, 3)))
        bounds = zip(self.minimum, shape, self.maximum, strict=True)
        if not all(low <= side <= high for low, side, high in bounds):
            raise ValueError(
                f"images of shape {shape} are outside of what the engine was built for, "
                f"{self.minimum} to {self.maximum}"
            )


def find_tensorrt() -> ModuleType:
    """The package tensorrt or else tensorrt_rtx; ImportError says how to get it."""
    for name in _PACKAGES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
    raise ImportError(
        "neither 'tensorrt' nor 'tensorrt-rtx' is installed; the latter comes with the extra "
        "'tensorrt': pip install 'radio-toolkit[tensorrt]'",
        name=_PACKAGES[0],
    )


def has_timing_cache(trt: ModuleType) -> bool:
    """True for the package that times kernels in a build; tensorrt_rtx chooses them as it runs."""
    return trt.__name__ == _PACKAGES[0]


@dataclass(frozen=True, kw_only=True)
class Built(Exported):
    """What was built, by which package and version; `ran`: it was compared with the model."""

    builder: str
    seconds: float
    ran: bool


def export_tensorrt(
    exportable: Exportable,
    path: Path,
    profile: Profile,
    *,
    precision: Precision = "float32",
    timing_cache: Path | None = None,
    tolerance: float | None = None,
    progress: Progress = silent,
) -> Built:
    """Write an engine of a model, and its card beside it (the same name with .json behind it).

    Where there is a GPU, the engine runs at the shapes of the profile and is compared with the
    model. Elsewhere it is built and not run; what is compared is the graph it is built from (in
    bfloat16 nothing, because nothing but TensorRT runs that). Nothing is left of an engine that
    differs by more than the tolerance.

    Args:
        exportable: in float32.
        path: ends with .engine.
        profile: the shapes that it shall take.
        precision: in which it computes.
        timing_cache: file with the timings of earlier builds, read and written again; not touched
            by tensorrt_rtx, which takes no timings.
        tolerance: as for `radio_core.export.onnx.export_onnx`.
        progress: listener.

    Raises:
        ValueError: a profile that does not fit the model, a model that cannot be exported or
            built; `ParityError` if the engine computes something else.
        ImportError: tensorrt, or the extra "export", is missing.
    """
    profile.check(exportable.card)
    check_destination(path, SUFFIX)
    check_packages()
    find_tensorrt()
    gpu = torch.cuda.is_available()
    parity = Parity(exportable.run, profile.shapes, progress) if gpu else None
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        graph = Path(folder) / "graph.onnx"
        if gpu or precision == "bfloat16":
            write_onnx(exportable, graph, precision=precision, progress=progress)
        else:
            export_onnx(
                exportable, graph, precision=precision, tolerance=tolerance, progress=progress
            )
        return build_engine(
            graph,
            path,
            profile,
            parity=parity,
            timing_cache=timing_cache,
            tolerance=tolerance,
            progress=progress,
        )


def build_engine(
    graph: Path,
    path: Path,
    profile: Profile,
    *,
    parity: Parity | None = None,
    timing_cache: Path | None = None,
    tolerance: float | None = None,
    progress: Progress = silent,
) -> Built:
    """Write an engine of an ONNX file of ours, compared by `parity` where there is a GPU."""
    card = read_onnx_card(graph)
    profile.check(card)
    check_destination(path, SUFFIX)
    trt = find_tensorrt()
    differences = []
    with draft(path, CARD_SUFFIX) as written:
        began = time.monotonic()
        cache = timing_cache if has_timing_cache(trt) else None
        written.write_bytes(_built(trt, graph, profile, cache, progress))
        seconds = time.monotonic() - began
        shapes = {name: str(getattr(profile, name)) for name in _BOUNDS}
        about = json.dumps({CARD_KEY: to_mapping(card), _PROFILE_KEY: shapes})
        written.with_name(path.name + CARD_SUFFIX).write_text(about + "\n", encoding="utf-8")
        if parity is not None and torch.cuda.is_available():
            engine = TensorRTEngine(written)
            differences = parity.check(engine, "the engine", tolerance, progress)
    return Built(
        path=path,
        card=card,
        side_file=path.with_name(path.name + CARD_SUFFIX),
        differences=differences,
        builder=f"{trt.__name__} {trt.__version__}",
        seconds=seconds,
        ran=bool(differences),
    )


def _built(
    trt: Any, graph: Path, profile: Profile, timing_cache: Path | None, progress: Progress
) -> Any:
    """The bytes of an engine."""
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    progress("parsing for TensorRT", 0, None)
    if not parser.parse_from_file(str(graph)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise ValueError(f"TensorRT cannot parse {graph.name}: {errors}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # whose 10 bits would not pass for float32
    shapes = builder.create_optimization_profile()
    bounds = (profile.minimum, profile.optimum, profile.maximum)
    shapes.set_shape(INPUT, *((s.batch, 3, s.height, s.width) for s in bounds))
    config.add_optimization_profile(shapes)
    config.progress_monitor = _monitor(trt, progress)
    if timing_cache is not None:
        known = timing_cache.read_bytes() if timing_cache.exists() else b""
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise ValueError(f"TensorRT cannot build {graph.name}: {logger.last or 'no reason given'}")
    if timing_cache is not None:
        timing_cache.parent.mkdir(parents=True, exist_ok=True)
        draft = timing_cache.with_name(timing_cache.name + ".part")
        draft.write_bytes(config.get_timing_cache().serialize())
        os.replace(draft, timing_cache)
    return built


def _logger(trt: Any) -> Any:
    """A logger that keeps the last error for our own message, and prints nothing."""

    class Quiet(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self.last = message

    return Quiet()


def _monitor(trt: Any, progress: Progress) -> Any:

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, num_steps: int) -> None:
            self.steps[phase] = num_steps

        def step_complete(self, phase: str, step: int) -> bool:
            progress(f"TensorRT: {phase}", step, self.steps.get(phase))
            return True

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Monitor()


class TensorRTEngine:
    """An engine on a GPU. An engine is machine code: load only those that you trust."""

    def __init__(self, path: Path, device: str | torch.device = "cuda") -> None:
        self.card, self.profile = read_engine_card(path)
        self.device = torch.device(device)
        self.files: tuple[Path, ...] = (path, path.with_name(path.name + CARD_SUFFIX))
        if not torch.cuda.is_available():
            raise ValueError(f"{path} is an engine of TensorRT, which needs a GPU")
        if self.device.type != "cuda":
            raise ValueError(f"{path} is an engine of TensorRT: open it on a GPU (--device cuda)")
        trt = find_tensorrt()
        self._logger = _logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise ValueError(
                f"{trt.__name__} {trt.__version__} cannot run {path}: "
                f"{self._logger.last or 'no reason given'}; build it again here"
            )
        self._context = self._engine.create_execution_context()

    def run(self, images: Tensor) -> dict[str, Tensor]:
        """Float32 images [B, 3, H, W] to output name -> float32 tensor, on `device`."""
        self.profile.check_images(images)
        with torch.cuda.device(self.device):
            images = images.to(self.device).contiguous()
            self._context.set_input_shape(INPUT, tuple(images.shape))
            self._context.set_tensor_address(INPUT, images.data_ptr())
            outputs = {}
            for name in self.card.outputs:
                shape = tuple(self._context.get_tensor_shape(name))
                outputs[name] = torch.empty(shape, dtype=torch.float32, device=self.device)
                self._context.set_tensor_address(name, outputs[name].data_ptr())
            stream = torch.cuda.current_stream()
            if not self._context.execute_async_v3(stream.cuda_stream):
                raise RuntimeError(f"TensorRT failed: {self._logger.last or 'no reason given'}")
            stream.synchronize()  # the input may be freed from here on
        return outputs


def read_engine_card(path: Path) -> tuple[ExportCard, Profile]:
    """The card of an engine and its profile, from the file beside it."""
    side = path.with_name(path.name + CARD_SUFFIX)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if not side.is_file():
        raise ValueError(f"{path} needs {side.name} beside it; copy both files together")
    try:
        about = json.loads(side.read_bytes())
        card = read_card(json.dumps(about[CARD_KEY]), str(side))
        return card, Profile.parse(about[_PROFILE_KEY])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{side} is damaged: {error!r}") from error
