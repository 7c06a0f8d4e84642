"""Images per second of models, measured in turns on random images.

A case's model is called by torch, onnxruntime or TensorRT.
"""

import copy
import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from radio_core.bench.bare import BareViT, has_bare_version
from radio_core.bench.cases import Case, Dtype, Engine, ModelEngine
from radio_core.bench.sam import RANDOM_SAM, SamEncoder
from radio_core.bench.timing import Activity, Timing, time_in_turns
from radio_core.export.exportable import Exportable, radio_exportable, vision_exportable
from radio_core.export.onnx import OnnxRuntimeEngine, check_packages, write_onnx
from radio_core.export.parity import Parity
from radio_core.export.runtime import SUFFIXES, ExportedModel, load_exported
from radio_core.export.tensorrt import Profile, Shape, TensorRTEngine, build_engine, find_tensorrt
from radio_core.models import RadioModel
from radio_core.models.config import DTYPES
from radio_core.open import RANDOM, random_model
from radio_core.progress import Progress, silent
from radio_core.teachers import is_teacher, load_teacher
from radio_core.zoo.load import load_model

T = TypeVar("T")
MATMUL = "matmul"
_MATMUL_SIDES = {"cpu": 2048, "cuda": 8192}
_CPU = torch.device("cpu")
# What torch does not count by itself.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *_, **__: int(sdpa_flop_count(query, key, value))
    )
}
_COMPARED: dict[Engine, tuple[Engine, ...]] = {
    "eager": ("products", "bare"),
    **dict.fromkeys(get_args(ModelEngine)[1:], ("eager",)),
}
"""Engine -> those that it is compared with on the same case."""
_SHAPES = 64
"""Shapes of images for which `torch.compile` may compile the same code."""


@dataclass(frozen=True)
class Throughput:
    """How fast one case was.

    `flops` of a call as torch counts them, None where unknown; `parameters` None for a file.
    `ratios`: baseline -> median of the case / median of the baseline, where baselines are
    "eager", "bare" and "products" (the same case with that engine), the name of another case,
    and "earlier". `peak_share`: operations a second / those of one large matrix product in the
    same precision.
    """

    case: Case
    timing: Timing
    flops: float | None = None
    parameters: int | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)
    peak_share: float | None = None

    @property
    def images_per_second(self) -> float:
        """Images of a batch / median time."""
        return self.case.batch_size / self.timing.median

    def as_json(self) -> dict[str, Any]:
        """The case, medians in milliseconds, spread in percent, throughput and ratios."""
        share = self.peak_share
        return {
            "name": self.case.name,
            **vars(self.case),
            "parameters": self.parameters,
            "ms": round(1000 * self.timing.median, 3),
            "spread_percent": round(100 * self.timing.spread, 2),
            "images_per_second": round(self.images_per_second, 3),
            "ratios": {name: round(ratio, 4) for name, ratio in self.ratios.items()},
            "peak_share": None if share is None else round(share, 4),
        }


def measure(
    cases: Sequence[Case],
    *,
    repeats: int,
    device: torch.device,
    deploy: bool = False,
    bare: bool = False,
    peak: bool = False,
    progress: Progress = silent,
) -> list[Throughput]:
    """Time the cases in turns, after two turns for warming up; the models stay in memory together.

    `deploy` fuses what only training needs (what is exported always is); `bare` also measures the
    engines "products" and "bare" of each ViT with global attention; `peak` also one large matrix
    product in each precision, and counts operations. See `compare` for the results.
    """
    for engine in {case.engine for case in cases} & {"onnxruntime", "tensorrt"}:
        if engine == "tensorrt":
            if device.type != "cuda":
                raise ValueError("TensorRT needs a GPU: use --device cuda, or another engine")
            find_tensorrt()
        check_packages()
    activities: dict[Case, Activity] = {}
    flops: dict[Case, float | None] = {}
    with torch.inference_mode(), TemporaryDirectory(prefix="radio-bench-") as folder:
        bench = Workbench(device, Path(folder), deploy)
        # Whatever is wrong with a case shows here, before slow work.
        parameters = {case: bench.parameters(case) for case in cases}
        for index, case in enumerate(cases):
            progress("loading", index, len(cases))
            if bare and case.engine == "eager":
                activities |= bench.bare(case)
            activities[case] = bench.activity(case)
            if peak:
                flops[case] = bench.flops(case)
        if peak:
            for product in dict.fromkeys(matmul_case(case.dtype, device) for case in cases):
                shape, dtype = (product.height, product.width), DTYPES[product.dtype]
                left, right = (torch.randn(shape, dtype=dtype, device=device) for _ in range(2))
                activities[product] = partial(F.linear, left, right)
                flops[product] = matmul_flops(product)
        with torch._dynamo.config.patch(cache_size_limit=_SHAPES):
            timings = time_in_turns(activities, repeats, device=device, progress=progress)
    return [
        Throughput(case, timing, flops.get(case), parameters.get(case))
        for case, timing in timings.items()
    ]


def compare(
    rows: Sequence[Throughput], baseline: str = "", earlier: Mapping[Case, float] | None = None
) -> list[Throughput]:
    """What `measure` returned, with its ratios to whatever it can be compared with.

    `baseline` names the case that the others, at the same batch size and precision, are compared
    with; `earlier` has medians in seconds of an earlier run.
    """
    if baseline:
        check_baseline(baseline, [row.case for row in rows])
    medians = {row.case: row.timing.median for row in rows}
    peaks = {row.case.dtype: row for row in rows if row.case.engine == "matmul"}
    compared = []
    for row in rows:
        case = row.case
        others: dict[str, float] = {}
        for engine in _COMPARED.get(case.engine, ()):
            if (same := replace(case, engine=engine)) in medians:
                others[engine] = medians[same]
        wanted = (baseline, "eager", case.batch_size, case.dtype)
        for other, median in medians.items():
            found = (other.name, other.engine, other.batch_size, other.dtype)
            if other != case and found == wanted:
                others[baseline] = median
        if earlier and case in earlier:
            others["earlier"] = earlier[case]
        ratios = {name: medians[case] / median for name, median in others.items()}
        share, peak = None, peaks.get(case.dtype)
        if peak is not None and peak is not row and peak.flops and row.flops:
            share = (row.flops / medians[case]) / (peak.flops / peak.timing.median)
        compared.append(replace(row, ratios=ratios, peak_share=share))
    return compared


def check_baseline(baseline: str, cases: Iterable[Case]) -> None:
    """Raise ValueError, listing the names, unless `baseline` is the name of a case."""
    names = list(dict.fromkeys(case.name for case in cases))
    if baseline not in names:
        raise ValueError(f"baseline {baseline!r} is not measured; measured: {', '.join(names)}")


def read_medians(path: Path) -> dict[Case, float]:
    """The medians, in seconds, in a file that `radio bench throughput --json` wrote."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        names = [column.name for column in fields(Case)]
        return {Case(**{name: row[name] for name in names}): row["ms"] / 1000 for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no result of radio bench throughput: {error!r}") from None


class Workbench:
    """Opens the models of cases, each once, and makes of every case a call to be timed.

    `folder` is for exported files, several GB for large models; what is exported is always
    deployed.
    """

    def __init__(self, device: torch.device, folder: Path, deploy: bool = False) -> None:
        self._device = device
        self._folder = folder
        self._deploy = deploy
        self._made: dict[Hashable, Any] = {}

    def open(self, case: Case) -> Exportable | ExportedModel:
        """The model of a case; ValueError for an unknown one, or a size or windows it does not
        take."""
        opened: Exportable | ExportedModel
        if case.model.endswith(SUFFIXES):
            threads = torch.get_num_threads()
            opened = self._once(
                (case.model,), lambda: load_exported(case.model, self._device, threads)
            )
            _check_no_windows(case)
        else:
            opened = self._exportable(case, case.dtype, self._device, self._deploy)
        opened.card.check_size(case.height, case.width)
        return opened

    def parameters(self, case: Case) -> int | None:
        """How many parameters the model of a case has; None for a file."""
        opened = self.open(case)
        if isinstance(opened, ExportedModel):
            return None
        return sum(parameter.numel() for parameter in opened.module.parameters())

    def activity(self, case: Case) -> Activity:
        """One call of the case's model on random images."""
        images = self._images(case)
        opened = self.open(case)
        if isinstance(opened, ExportedModel):
            return partial(opened, images)
        if case.engine == "compile":
            return partial(torch.compile(opened.module, dynamic=False), images)
        if case.engine == "channels-last":
            module = copy.deepcopy(opened.module).to(memory_format=torch.channels_last)
            return partial(module, images.contiguous(memory_format=torch.channels_last))
        if case.engine in ("onnxruntime", "tensorrt"):
            return self._exported(case, images)
        return partial(opened.module, images)

    def bare(self, case: Case) -> dict[Case, Activity]:
        """The engines "products" and "bare" of a ViT with global attention; empty for others."""
        opened = self.open(case)
        radio = None if isinstance(opened, ExportedModel) else opened.module.model
        if not isinstance(radio, RadioModel) or case.window_size or not has_bare_version(radio):
            return {}
        images = self._images(case)
        vit = BareViT(radio, case.batch_size, case.height, case.width)
        tokens = torch.randn_like(vit.tokens(images))
        cast = images.to(tokens.dtype)
        return {
            replace(case, engine="products"): lambda: vit.products(cast, tokens),
            replace(case, engine="bare"): lambda: vit.tokens(images),
        }

    def flops(self, case: Case) -> float | None:
        """Floating point operations of one call, as torch counts them; None for a file."""
        opened = self.open(case)
        if isinstance(opened, ExportedModel):
            return None
        with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
            opened.module(self._images(case))
        return float(counter.get_total_flops())

    def _once(self, key: tuple[Hashable, ...], make: Callable[[], T]) -> T:
        if key not in self._made:
            self._made[key] = make()
        found: T = self._made[key]
        return found

    def _images(self, case: Case) -> Tensor:
        return torch.rand(case.batch_size, 3, case.height, case.width, device=self._device)

    def _exportable(
        self, case: Case, dtype: Dtype, device: torch.device, deploy: bool
    ) -> Exportable:
        """The model of a case as a module; RADIO for images of any size, others for the case's."""
        size = (case.height, case.width)
        key = (case.model, case.window_size, size, dtype, device)
        sam = RANDOM_SAM.get(case.model)
        if sam is None and not is_teacher(case.model):
            radio = self._radio(case, dtype, device, deploy)
            return radio_exportable(radio, name=case.model, feature_fmt="NLC")
        if sam is None:
            _check_no_windows(case)
        elif case.height != case.width:
            raise ValueError(f"{case.name}: this encoder takes squares")

        def make() -> Exportable:
            side, window = case.height, case.window_size
            model = load_teacher(case.model) if sam is None else SamEncoder(sam, side, window)
            return vision_exportable(model.to(device, DTYPES[dtype]), size)

        return self._once(key, make)

    def _radio(self, case: Case, dtype: Dtype, device: torch.device, deploy: bool) -> RadioModel:
        """A RADIO model with the windows of a case; those of several cases share their weights."""

        def load() -> RadioModel:
            preset = case.model.removeprefix(RANDOM)
            if preset != case.model:
                model = random_model(preset, num_windowed=case.num_windowed)
            else:
                model = load_model(case.model, num_windowed=case.num_windowed)
            model.backbone.to(DTYPES[dtype])
            model.to(device)
            return model.switch_to_deploy() if deploy else model

        key = (case.model, case.num_windowed, dtype, device, deploy)
        model = self._once(key, load)
        if not case.window_size:
            return model
        if model.config.backbone.own_windows:
            windowed = self._once((*key, case.window_size), lambda: copy.deepcopy(model))
            windowed.backbone.change_window_size(case.window_size)
            return windowed
        if not model.config.supports_windows:
            raise ValueError(f"{case.model} has no windowed mode: measure it without windows")
        windowed = copy.copy(model)
        windowed.window_size = case.window_size
        return windowed

    def _exported(self, case: Case, images: Tensor) -> Activity:
        """The exported model, which is compared with the model itself at the case's size."""
        plain = self._exportable(case, "float32", _CPU, deploy=False)

        def write() -> Path:
            path = self._folder / f"{len(self._made)}.onnx"
            write_onnx(plain, path, precision=case.dtype)
            return path

        # Cases that differ in what a file leaves open share it.
        key = (case.model, case.num_windowed, case.window_size, plain.card.fixed_size, case.dtype)
        graph = self._once(("graph", *key), write)
        one, whole = (Shape(n, case.height, case.width) for n in (1, case.batch_size))
        parity = Parity(plain.run, [one])
        if case.engine == "onnxruntime":
            engine = OnnxRuntimeEngine(graph, self._device, torch.get_num_threads())
            parity.check(engine, "the ONNX file")
            return partial(engine.run, images)
        path = self._folder / f"{len(list(self._folder.iterdir()))}.engine"
        profile = Profile(minimum=one, optimum=whole, maximum=whole)
        build_engine(graph, path, profile, parity=parity)
        return partial(TensorRTEngine(path, self._device).run, images)


def _check_no_windows(case: Case) -> None:
    if case.window_size or case.num_windowed:
        raise ValueError(f"{case.model} has no windowed mode: measure it without windows")


def matmul_case(dtype: Dtype, device: torch.device) -> Case:
    """One large matrix product, as a case."""
    side = _MATMUL_SIDES.get(device.type, 4096)
    return Case(model=MATMUL, height=side, width=side, engine="matmul", dtype=dtype)


def matmul_flops(case: Case) -> float:
    """Floating point operations of that product."""
    return 2.0 * case.height**3
