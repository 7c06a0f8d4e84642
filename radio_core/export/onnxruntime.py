"""ONNX files run by onnxruntime."""

from pathlib import Path

import torch
from torch import Tensor

from radio_core.export.card import ExportCard
from radio_core.export.onnx_file import EXTRA, read_onnx_card
from radio_core.export.subject import INPUT
from radio_core.extras import require

_CUDA = "CUDAExecutionProvider"


class OnnxRuntimeEngine:
    """A session of onnxruntime. No library of foreign operators is ever loaded.

    Args:
        path: the ONNX file.
        device: "cpu", or "cuda" with the package onnxruntime-gpu.
        threads: of a CPU; None for onnxruntime's own choice.

    Attributes:
        card: what the file says about itself.
        device: where it computes.

    Raises:
        ValueError: a file that is not ours or damaged, or no such device.
        ImportError: the extra "export" is missing.
    """

    def __init__(
        self, path: Path, device: str | torch.device = "cpu", threads: int | None = None
    ) -> None:
        self.card: ExportCard = read_onnx_card(path)
        self.device = torch.device(device)
        runtime = require("onnxruntime", extra=EXTRA)
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=_providers(self.device)
            )
        except Exception as error:  # a class of its own for each kind, with no common one
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"onnxruntime refuses {path}: {reason}") from error
        # It goes on without a provider whose libraries it does not find.
        if self.device.type == "cuda" and _CUDA not in self._session.get_providers():
            raise ValueError(
                "onnxruntime cannot use the GPU: its CUDA or cuDNN libraries are missing or of "
                "another version; repair them, or use cpu"
            )

    def run(self, images: Tensor) -> dict[str, Tensor]:
        """Float32 images [B, 3, H, W] to output name -> float32 tensor, on the CPU."""
        feed = {INPUT: images.detach().cpu().contiguous().numpy()}
        found = self._session.run(list(self.card.outputs), feed)
        return dict(zip(self.card.outputs, map(torch.from_numpy, found), strict=True))


def has_cuda() -> bool:
    """Whether the installed onnxruntime is one for GPUs."""
    return _CUDA in require("onnxruntime", extra=EXTRA).get_available_providers()


def _providers(device: torch.device) -> list[str | tuple[str, dict[str, int]]]:
    if device.type == "cpu":
        return ["CPUExecutionProvider"]
    if device.type != "cuda":
        raise ValueError(f"onnxruntime runs on cpu or cuda, not on {device}")
    if not has_cuda():
        raise ValueError(
            "this onnxruntime has no CUDA: install onnxruntime-gpu in its place, or use cpu"
        )
    # TF32's 10 bits would not pass for float32.
    return [(_CUDA, {"device_id": device.index or 0, "use_tf32": 0}), "CPUExecutionProvider"]
