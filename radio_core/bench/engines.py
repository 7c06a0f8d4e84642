"""What runs a model in a benchmark: torch, compiled torch, onnxruntime, TensorRT."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from radio_core.bench.bare import bare_vit, has_bare_version
from radio_core.bench.candidates import Candidates
from radio_core.bench.cases import Case, Dtype
from radio_core.bench.timing import Activity
from radio_core.export.onnx import check_packages, write_onnx
from radio_core.export.onnxruntime import OnnxRuntimeEngine
from radio_core.export.parity import TOLERANCES, check_parity, parity_cases
from radio_core.export.profile import Profile, Shape
from radio_core.export.subject import Subject, unwatched
from radio_core.export.tensorrt import TensorRTEngine, build_engine, find_tensorrt
from radio_core.models.config import DTYPES

MATMUL = "matmul"
_MATMUL_SIDES = {"cpu": 2048, "cuda": 8192}
_OPSET = 18


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
}
"""What torch does not count by itself."""


def check_engine(case: Case, device: torch.device) -> None:
    """Refuse an engine that cannot run here, before anything slow.

    Raises:
        ValueError: TensorRT without a GPU.
        ImportError: the package of the engine is missing.
    """
    if case.engine == "tensorrt":
        if device.type != "cuda":
            raise ValueError("TensorRT needs a GPU: use --device cuda, or another engine")
        find_tensorrt()
    if case.engine in ("onnxruntime", "tensorrt"):
        check_packages(_OPSET)


class Engines:
    """Makes the activity of each case.

    Args:
        candidates: opens the models.
        folder: for exported files, several GB for large models.
    """

    def __init__(self, candidates: Candidates, folder: Path) -> None:
        self._candidates = candidates
        self._device = candidates.device
        self._folder = folder
        self._graphs: dict[tuple[object, ...], tuple[Path, Subject]] = {}

    def activity(self, case: Case) -> Activity:
        """One call of the case's model on random images.

        Raises:
            ValueError: the model cannot be opened, exported or compiled for the case.
        """
        images = self._images(case)
        candidate = self._candidates.open(case)
        if case.engine == "compile" and candidate.module is not None:
            return partial(torch.compile(candidate.module, dynamic=False), images)
        if case.engine == "channels-last" and candidate.module is not None:
            module = copy.deepcopy(candidate.module).to(memory_format=torch.channels_last)
            return partial(module, images.contiguous(memory_format=torch.channels_last))
        if candidate.subject is not None and case.engine in ("onnxruntime", "tensorrt"):
            return self._exported(case, candidate.subject, images)
        return partial(candidate.run, images)

    def bare(self, case: Case) -> dict[Case, Activity]:
        """The engines "products" and "bare" of a ViT with global attention; empty for others."""
        radio = self._candidates.open(case).radio
        if radio is None or case.window_size is not None or not has_bare_version(radio):
            return {}
        images = self._images(case)
        vit = bare_vit(radio, *(images.shape[i] for i in (0, 2, 3)))
        tokens = torch.randn_like(vit.tokens(images))
        cast = images.to(tokens.dtype)
        return {
            replace(case, engine="products"): lambda: vit.products(cast, tokens),
            replace(case, engine="bare"): lambda: vit.tokens(images),
        }

    def flops(self, case: Case) -> float | None:
        """Floating point operations of one call, as torch counts them; None for a file."""
        module = self._candidates.open(case).module
        if module is None:
            return None
        with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
            module(self._images(case))
        return float(counter.get_total_flops())

    def _images(self, case: Case) -> Tensor:
        return torch.rand(case.batch_size, 3, case.height, case.width, device=self._device)

    def _exported(self, case: Case, make: Callable[[], Subject], images: Tensor) -> Activity:
        """The exported model, which is compared with the model itself at the case's size."""
        graph, subject = self._graph(case, make)
        one, all_of_them = (Shape(n, case.height, case.width) for n in (1, case.batch_size))
        cases = parity_cases(subject.run, [one], unwatched)
        if case.engine == "onnxruntime":
            engine = OnnxRuntimeEngine(graph, self._device, torch.get_num_threads())
            check_parity(cases, engine.run, TOLERANCES[case.dtype], "the ONNX file", unwatched)
            return partial(engine.run, images)
        path = self._folder / f"{len(list(self._folder.iterdir()))}.engine"
        profile = Profile(minimum=one, optimum=all_of_them, maximum=all_of_them)
        build_engine(graph, path, profile, cases=cases)
        return partial(TensorRTEngine(path, self._device).run, images)

    def _graph(self, case: Case, make: Callable[[], Subject]) -> tuple[Path, Subject]:
        """The ONNX file of a case; cases that differ in what it leaves open share it."""
        subject = make()
        card = subject.card
        key = (case.model, case.num_windowed, case.window_size, card.fixed_size, case.dtype)
        if key not in self._graphs:
            path = self._folder / f"{len(self._graphs)}.onnx"
            write_onnx(subject, path, precision=case.dtype, opset=_OPSET)
            self._graphs[key] = path, subject
        return self._graphs[key][0], subject


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
