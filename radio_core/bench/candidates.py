"""Models as benchmarks see them: one call from images to outputs, and what to export of it."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from radio_core import __version__
from radio_core.bench.cases import (
    RANDOM_PREFIX,
    SAM_ENCODERS,
    SAM_PREFIX,
    Case,
    Dtype,
    random_backbone,
)
from radio_core.bench.sam import sam_encoder
from radio_core.export.card import ExportCard
from radio_core.export.runtime import SUFFIXES, load_exported
from radio_core.export.subject import Subject, model_subject
from radio_core.models import RadioConfig, RadioModel
from radio_core.models.config import DTYPES
from radio_core.teachers.base import Teacher
from radio_core.teachers.load import is_teacher, load_teacher
from radio_core.vision import nearest_resolution
from radio_core.zoo.load import load_model


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model at one size of images, ready to be timed.

    Attributes:
        run: images [B, 3, H, W] in [0, 1] to outputs, on the device of the case.
        module: the same as a module that can be compiled; None for a file.
        subject: makes what is exported, in float32; None where nothing can be.
        radio: the RADIO model behind it, where there is one.
    """

    run: Callable[[Tensor], object]
    module: nn.Module | None = None
    subject: Callable[[], Subject] | None = None
    radio: RadioModel | None = None

    @property
    def parameters(self) -> int | None:
        """How many it has; None for a file."""
        if self.module is None:
            return None
        return sum(parameter.numel() for parameter in self.module.parameters())


class Candidates:
    """Opens the models of cases, each once.

    Args:
        device: where they run.
        deploy: fuse what only training needs (`RadioModel.switch_to_deploy`).
    """

    def __init__(self, device: torch.device, deploy: bool = False) -> None:
        self.device = device
        self._deploy = deploy
        self._opened: dict[tuple[Any, ...], Any] = {}

    def open(self, case: Case) -> Candidate:
        """The model of a case.

        Raises:
            ValueError: an unknown model, or a size or windows that it does not take.
        """
        if case.model.endswith(SUFFIXES):
            return self._file(case)
        if case.model.removeprefix(RANDOM_PREFIX) in SAM_ENCODERS:
            return self._sam_encoder(case)
        if is_teacher(case.model):
            return self._teacher(case)
        return self._radio(case)

    def _once(self, key: Sequence[Any], make: Callable[[], Any]) -> Any:
        """What `make` makes; the same for an equal key."""
        found = self._opened.get(tuple(key))
        if found is None:
            found = self._opened[tuple(key)] = make()
        return found

    def _radio(self, case: Case) -> Candidate:
        def opened(dtype: Dtype, device: torch.device, deploy: bool) -> RadioModel:
            def make() -> RadioModel:
                model = _open_radio(case.model, case.num_windowed)
                model.backbone.to(DTYPES[dtype])
                model.to(device)
                return model.switch_to_deploy() if deploy else model

            key = (case.model, case.num_windowed, dtype, device, deploy)
            model: RadioModel = self._once(key, make)
            if case.window_size and model.config.backbone.own_windows:
                windowed: RadioModel = self._once(
                    (*key, case.window_size), lambda: copy.deepcopy(model)
                )
                windowed.backbone.change_window_size(case.window_size)
                return windowed
            return model

        model = opened(case.dtype, self.device, self._deploy)
        _check_size(case, model)
        windows = None if model.config.backbone.own_windows else case.window_size
        module = _Windowed(model, windows)

        def subject() -> Subject:
            plain = opened("float32", torch.device("cpu"), deploy=False)
            plain.window_size = windows
            return model_subject(plain, name=case.model, feature_fmt="NLC")

        return Candidate(run=module, module=module, subject=subject, radio=model)

    def _teacher(self, case: Case) -> Candidate:
        _no_windows(case)
        size = (case.height, case.width)

        def make() -> nn.Module:
            teacher = load_teacher(case.model)
            return _TeacherAt(teacher, teacher.spec.checked_size(size))

        return self._plain(case, make)

    def _sam_encoder(self, case: Case) -> Candidate:
        name = case.model.removeprefix(RANDOM_PREFIX)
        if case.height != case.width or (case.window_size and not name.startswith(SAM_PREFIX)):
            raise ValueError(f"{case.name}: this encoder takes squares, and has windows of its own")
        windows = f"+w{case.window_size}" if case.window_size else ""
        return self._plain(case, lambda: sam_encoder(SAM_ENCODERS[name] + windows, case.height))

    def _plain(self, case: Case, make: Callable[[], nn.Module]) -> Candidate:
        """Any module that takes images of the case's size."""

        def opened(dtype: Dtype, device: torch.device) -> nn.Module:
            key = (case.name, dtype, device)
            found: nn.Module = self._once(
                key, lambda: _Plain(make()).eval().to(device, DTYPES[dtype])
            )
            return found

        module = opened(case.dtype, self.device)

        def subject() -> Subject:
            plain = opened("float32", torch.device("cpu"))
            with torch.no_grad():
                count = len(plain(torch.zeros(1, 3, case.height, case.width)))
            card = ExportCard(
                name=case.model,
                toolkit=__version__,
                purpose="benchmark",
                outputs=tuple(f"output{number}" for number in range(count)),
                patch_size=1,
                resolution_step=1,
                fixed_size=(case.height, case.width),
                embed_dim=1,
            )
            return Subject(module=plain, card=card)

        return Candidate(run=module, module=module, subject=subject)

    def _file(self, case: Case) -> Candidate:
        threads = torch.get_num_threads()
        model = self._once((case.model,), lambda: load_exported(case.model, self.device, threads))
        _no_windows(case)
        nearest = model.nearest_supported_resolution(case.height, case.width)
        _check_nearest(case, nearest)
        return Candidate(run=model)


def _open_radio(name: str, num_windowed: int | None) -> RadioModel:
    preset = name.removeprefix(RANDOM_PREFIX)
    if preset == name:
        return load_model(name, num_windowed=num_windowed)
    backbone = random_backbone(preset)
    if num_windowed is not None:
        backbone = backbone.with_fields(num_windowed=num_windowed)
    config = RadioConfig(backbone=backbone, supports_windows=backbone.supports_windows)
    return RadioModel(config).eval()


def _check_size(case: Case, model: RadioModel) -> None:
    height, width, window = case.height, case.width, case.window_size
    nearest = model.nearest_supported_resolution(height, width)
    if window is not None and not model.config.backbone.own_windows:
        if not model.config.supports_windows:
            raise ValueError(f"{case.model} has no windowed mode: measure it without windows")
        nearest = nearest_resolution(height, width, model.config.backbone.resolution_step * window)
    _check_nearest(case, nearest)


def _check_nearest(case: Case, nearest: tuple[int, int]) -> None:
    if nearest != (case.height, case.width):
        raise ValueError(
            f"{case.name}: the model does not take {case.height}x{case.width} pixels; the nearest "
            f"size that it takes is {nearest[0]}x{nearest[1]}"
        )


def _no_windows(case: Case) -> None:
    if case.window_size or case.num_windowed:
        raise ValueError(f"{case.model} has no windowed mode: measure it without windows")


class _Windowed(nn.Module):
    """A RADIO model with fixed windows."""

    def __init__(self, model: RadioModel, window_size: int | None) -> None:
        super().__init__()
        self.model = model
        self.window_size = window_size or 0

    def forward(self, images: Tensor) -> Any:
        return self.model(images, window_size=self.window_size)


class _TeacherAt(nn.Module):
    """A teacher that sees images at one size."""

    def __init__(self, teacher: Teacher, size: tuple[int, int]) -> None:
        super().__init__()
        self.teacher = teacher
        self.size = size

    def forward(self, images: Tensor) -> Any:
        return self.teacher(images, self.size)


class _Plain(nn.Module):
    """A module fed in its own precision, whose outputs are a tuple of float32 tensors."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        dtype = next(self.parameters()).dtype
        return tuple(tensor.float() for tensor in _tensors(self.module(images.to(dtype))))


def _tensors(output: Any) -> list[Tensor]:
    """The tensors in a module's output, whatever it puts them into."""
    if isinstance(output, Tensor):
        return [output]
    if output is None:
        return []
    values = output.values() if isinstance(output, Mapping) else output
    return [tensor for value in values for tensor in _tensors(value)]
