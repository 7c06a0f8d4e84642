"""Packages of torch.export: written after a comparison with the model, and run again."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radio_core.export.card import CARD_KEY, Precision, read_card
from radio_core.export.exportable import Exportable
from radio_core.export.graph import trace
from radio_core.export.parity import Exported, Parity, check_destination, draft, parity_shapes
from radio_core.progress import Progress, silent

_CARD_FILE = f"{CARD_KEY}.json"


def export_torch(
    exportable: Exportable,
    path: Path,
    *,
    precision: Precision = "float32",
    tolerance: float | None = None,
    progress: Progress = silent,
) -> Exported:
    """Write a package (.pt2) that `torch.export.load` reads, after comparing it with the model.

    Arguments and errors as those of `radio_core.export.onnx.export_onnx`.
    """
    check_destination(path, ".pt2")
    parity = Parity(exportable.run, parity_shapes(exportable.card), progress)
    with draft(path) as written:
        progress("tracing", 0, None)
        prepared = exportable.prepared(precision)
        program = trace(prepared)
        torch.export.save(program, written, extra_files={_CARD_FILE: prepared.card.to_json()})
        engine = TorchEngine(written)
        differences = parity.check(engine, "the torch.export package", tolerance, progress)
    return Exported(path=path, card=prepared.card, differences=differences)


class TorchEngine:
    """A torch.export package. It is a program: load only those that you trust."""

    def __init__(self, path: Path, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.files: tuple[Path, ...] = (path,)
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
