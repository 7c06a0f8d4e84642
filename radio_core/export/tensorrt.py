"""From a graph to a TensorRT engine, and engines run again.

Everything goes through the Python API that the packages `tensorrt` and `tensorrt-rtx` share. The
networks are strongly typed: an engine computes in the precision that the graph has.
"""

import importlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from radio_core.config_file import to_mapping
from radio_core.export.card import CARD_KEY, ExportCard, Precision, read_card
from radio_core.export.destination import Exported, beside, check_destination
from radio_core.export.onnx import DEFAULT_OPSET, check_packages, export_onnx, write_onnx
from radio_core.export.onnx_file import read_onnx_card
from radio_core.export.parity import TOLERANCES, ParityCase, check_parity, parity_cases
from radio_core.export.profile import Profile, read_profile
from radio_core.export.subject import INPUT, Subject, Watch, unwatched

SUFFIX = ".engine"
CARD_SUFFIX = ".json"
_PACKAGES = ("tensorrt", "tensorrt_rtx")
_PROFILE_KEY = "profile"


def find_tensorrt() -> ModuleType:
    """The package tensorrt or, where that is missing, tensorrt_rtx.

    Raises:
        ImportError: neither is installed; the message says how to install one.
    """
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
    """Whether the package times kernels while it builds; tensorrt_rtx chooses them when it runs."""
    return trt.__name__ == _PACKAGES[0]


@dataclass(frozen=True, kw_only=True)
class Built(Exported):
    """What was built.

    Attributes:
        builder: package and version that built it.
        seconds: that the build took.
        ran: whether there was a GPU to run it and compare it with the model.
    """

    builder: str
    seconds: float
    ran: bool


def export_tensorrt(
    subject: Subject,
    path: Path,
    profile: Profile,
    *,
    precision: Precision = "float32",
    timing_cache: Path | None = None,
    tolerance: float | None = None,
    watch: Watch = unwatched,
) -> Built:
    """Write an engine of a model, and its card beside it.

    Where there is a GPU, the engine runs at the shapes of the profile and is compared with the
    model. Elsewhere it is built and not run; what is compared is the graph it is built from (in
    bfloat16 nothing, because nothing but TensorRT runs that). Nothing is left of an engine that
    differs by more than the tolerance.

    Args:
        subject: in float32.
        path: ends with .engine; the card goes to the same name with .json behind it.
        profile: the shapes that it shall take.
        precision: in which it computes.
        timing_cache: file with the timings of earlier builds; it is read, and written again. Not
            touched by tensorrt_rtx, which takes no timings.
        tolerance: largest error, as a share of an output's largest value; None for the usual one
            of the precision.
        watch: listener.

    Raises:
        ValueError: a profile that does not fit the model, a model that cannot be exported or
            built; `ParityError` if the engine computes something else.
        ImportError: tensorrt, or the extra "export", is missing.
    """
    profile.check(subject.card)
    check_destination(path, SUFFIX)
    check_packages(DEFAULT_OPSET)
    find_tensorrt()
    gpu = torch.cuda.is_available()
    cases = parity_cases(subject.run, profile.shapes, watch) if gpu else []
    with beside(path) as folder:
        graph = folder / "graph.onnx"
        if gpu or precision == "bfloat16":
            write_onnx(subject, graph, precision=precision, watch=watch)
        else:
            export_onnx(subject, graph, precision=precision, tolerance=tolerance, watch=watch)
        return build_engine(
            graph,
            path,
            profile,
            cases=cases,
            timing_cache=timing_cache,
            tolerance=tolerance,
            watch=watch,
        )


def build_engine(
    graph: Path,
    path: Path,
    profile: Profile,
    *,
    cases: Sequence[ParityCase] = (),
    timing_cache: Path | None = None,
    tolerance: float | None = None,
    watch: Watch = unwatched,
) -> Built:
    """Write an engine of an ONNX file, and its card beside it.

    Args:
        graph: the file, as `export_onnx` wrote it.
        path: see `export_tensorrt`, as the other arguments.
        profile: see `export_tensorrt`.
        cases: what the engine is compared with, where there is a GPU.
        timing_cache: see `export_tensorrt`.
        tolerance: see `export_tensorrt`.
        watch: see `export_tensorrt`.

    Raises:
        ValueError: as `export_tensorrt`; or the file is none of ours, or TensorRT refuses it.
        ImportError: tensorrt, or the extra "export", is missing.
    """
    card = read_onnx_card(graph)
    profile.check(card)
    check_destination(path, SUFFIX)
    trt = find_tensorrt()
    with beside(path) as folder:
        draft, side = folder / path.name, folder / (path.name + CARD_SUFFIX)
        began = time.monotonic()
        cache = timing_cache if has_timing_cache(trt) else None
        draft.write_bytes(_built(trt, graph, profile, cache, watch))
        seconds = time.monotonic() - began
        about = {CARD_KEY: to_mapping(card), _PROFILE_KEY: profile.to_mapping()}
        side.write_text(json.dumps(about) + "\n", encoding="utf-8")
        runs = torch.cuda.is_available() and bool(cases)
        differences = []
        if runs:
            limit = TOLERANCES[card.precision] if tolerance is None else tolerance
            run = TensorRTEngine(draft).run
            differences = check_parity(cases, run, limit, "the engine", watch)
        side_file = path.with_name(side.name)
        os.replace(side, side_file)
        os.replace(draft, path)
    return Built(
        path=path,
        side_file=side_file,
        differences=differences,
        builder=f"{trt.__name__} {trt.__version__}",
        seconds=seconds,
        ran=runs,
    )


def _built(trt: Any, graph: Path, profile: Profile, timing_cache: Path | None, watch: Watch) -> Any:
    """The bytes of an engine."""
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    watch("parsing for TensorRT", 0, 0)
    if not parser.parse_from_file(str(graph)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise ValueError(f"TensorRT cannot parse {graph.name}: {errors}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # whose 10 bits would not pass for float32
    shapes = builder.create_optimization_profile()
    shapes.set_shape(
        INPUT,
        *(
            (s.batch, 3, s.height, s.width)
            for s in (profile.minimum, profile.optimum, profile.maximum)
        ),
    )
    config.add_optimization_profile(shapes)
    config.progress_monitor = _monitor(trt, watch)
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


def _monitor(trt: Any, watch: Watch) -> Any:
    """Tells the listener of TensorRT's phases."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, num_steps: int) -> None:
            self.steps[phase] = num_steps

        def step_complete(self, phase: str, step: int) -> bool:
            watch(f"TensorRT: {phase}", step, self.steps.get(phase, 0))
            return True

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Monitor()


class TensorRTEngine:
    """An engine on a GPU. An engine is machine code: load only those that you trust.

    Args:
        path: the file, with its card beside it.
        device: the GPU.

    Attributes:
        card: what the file says about itself.
        device: where it computes.
        profile: the shapes that it takes.

    Raises:
        ValueError: no card, no engine, an engine of another version of TensorRT or for another
            GPU, or no GPU.
        ImportError: tensorrt is missing.
    """

    def __init__(self, path: Path, device: str | torch.device = "cuda") -> None:
        self.card, self.profile = read_engine_card(path)
        self.device = torch.device(device)
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
        """Float32 images [B, 3, H, W] to output name -> float32 tensor, on `device`.

        Raises:
            ValueError: a shape outside of the profile.
        """
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
    """The card of an engine and its profile, from the file beside it.

    Raises:
        ValueError: that file is missing or malformed.
        FileNotFoundError: no such engine.
    """
    side = path.with_name(path.name + CARD_SUFFIX)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if not side.is_file():
        raise ValueError(f"{path} needs {side.name} beside it; copy both files together")
    try:
        about = json.loads(side.read_bytes())
        card = read_card(json.dumps(about[CARD_KEY]), str(side))
        return card, read_profile(about[_PROFILE_KEY])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{side} is damaged: {error!r}") from error
