"""Ahead-of-time export by torch.export, its packages run again, and models compiled in place."""

import inspect
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radio_core.export.card import CARD_KEY, Precision, read_card
from radio_core.export.destination import Exported, beside, check_destination
from radio_core.export.parity import TOLERANCES, check_parity, parity_cases, parity_shapes
from radio_core.export.subject import Subject, Watch, unwatched
from radio_core.export.trace import trace
from radio_core.models.radio import RadioModel

_CARD_FILE = f"{CARD_KEY}.json"


def export_torch(
    subject: Subject,
    path: Path,
    *,
    precision: Precision = "float32",
    tolerance: float | None = None,
    watch: Watch = unwatched,
) -> Exported:
    """Write a package that `torch.export.load` reads, after comparing it with the model.

    Nothing is left of a package that differs by more than the tolerance.

    Args:
        subject: in float32.
        path: ends with .pt2.
        precision: in which it computes.
        tolerance: see `radio_core.export.onnx.export_onnx`.
        watch: listener.

    Raises:
        ValueError: a model that cannot be exported; `ParityError` if the package computes
            something else.
    """
    check_destination(path, ".pt2")
    cases = parity_cases(subject.run, parity_shapes(subject.card), watch)
    with beside(path) as folder:
        draft = folder / path.name
        watch("tracing", 0, 0)
        prepared = subject.prepared(precision)
        program = trace(prepared)
        torch.export.save(program, draft, extra_files={_CARD_FILE: prepared.card.to_json()})
        limit = TOLERANCES[precision] if tolerance is None else tolerance
        run = TorchEngine(draft).run
        differences = check_parity(cases, run, limit, "the torch.export package", watch)
        os.replace(draft, path)
    return Exported(path=path, differences=differences)


class TorchEngine:
    """A torch.export package. Unlike the other files of models it is a program: load only those
    that you trust.

    Args:
        path: the package.
        device: where it computes.

    Attributes:
        card: what the file says about itself.
        device: where it computes.

    Raises:
        ValueError: not a package of ours, or a damaged one.
    """

    def __init__(self, path: Path, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        extra: dict[str, Any] = {_CARD_FILE: ""}
        try:
            program = torch.export.load(path, extra_files=extra)
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever the layers below say of bytes that they cannot read
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"{path} is no torch.export package, or is damaged: {reason}"
            ) from error
        self.card = read_card(extra[_CARD_FILE] or None, str(path))
        if self.device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, self.device)
        # The guards hold at sizes like the one that was traced; the graph itself holds at all.
        free = "check_guards" in inspect.signature(program.module).parameters
        self._module = program.module(check_guards=False) if free else program.module()

    @torch.inference_mode()
    def run(self, images: Tensor) -> dict[str, Tensor]:
        """Float32 images [B, 3, H, W] to output name -> float32 tensor, on `device`."""
        outputs = self._module(images.to(self.device))
        return dict(zip(self.card.outputs, outputs, strict=True))


def compile_model(
    model: RadioModel, mode: str | None = None, backend: str = "inductor"
) -> RadioModel:
    """Have `torch.compile` speed up a model in place; it stays what it is in all other respects.

    The compilation itself happens at the first call, and again at sizes of another kind.

    Args:
        model: in eval mode.
        mode: as `torch.compile` takes it, e.g. "max-autotune".
        backend: as `torch.compile` takes it.

    Returns:
        The model itself.
    """
    model.backbone.compile(mode=mode, backend=backend)
    for adaptor in model.adaptors.values():
        adaptor.compile(mode=mode, backend=backend)
    return model
