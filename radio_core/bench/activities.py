"""What is timed: a call of a case's model, by torch, onnxruntime or TensorRT."""

import copy
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from radio_core.bench.bare import BareViT, has_bare_version
from radio_core.bench.cases import Case, Dtype
from radio_core.bench.sam import RANDOM_SAM, SamEncoder
from radio_core.bench.timing import Activity
from radio_core.export.exportable import Exportable, radio_exportable, vision_exportable
from radio_core.export.onnx import OnnxRuntimeEngine, check_packages, write_onnx
from radio_core.export.parity import Parity
from radio_core.export.runtime import SUFFIXES, ExportedModel, load_exported
from radio_core.export.tensorrt import Profile, Shape, TensorRTEngine, build_engine, find_tensorrt
from radio_core.models import RadioModel
from radio_core.models.config import DTYPES
from radio_core.open import RANDOM, random_model
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


def check_engine(case: Case, device: torch.device) -> None:
    """Refuse an engine that cannot run here, before anything slow."""
    if case.engine == "tensorrt":
        if device.type != "cuda":
            raise ValueError("TensorRT needs a GPU: use --device cuda, or another engine")
        find_tensorrt()
    if case.engine in ("onnxruntime", "tensorrt"):
        check_packages()


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
            model = (
                load_teacher(case.model)
                if sam is None
                else SamEncoder(sam, case.height, case.window_size)
            )
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


def matmul_activity(case: Case, device: torch.device) -> Activity:
    """The product of two square matrices of the case's size, as a linear layer calls it."""
    dtype, sides = DTYPES[case.dtype], (case.height, case.width)
    left, right = (torch.randn(sides, dtype=dtype, device=device) for _ in range(2))
    return partial(F.linear, left, right)


def matmul_flops(case: Case) -> float:
    """Floating point operations of that product."""
    return 2.0 * case.height**3
