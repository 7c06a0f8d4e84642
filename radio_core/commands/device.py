"""The device that a `--device` means."""

import torch

from radio_core.commands import UsageError
from radio_core.export.onnxruntime import has_cuda


def read_device(name: str, model: str = "") -> torch.device:
    """The device of that name; "auto" is a GPU where there is one.

    Args:
        name: of the device.
        model: that shall run there; an .onnx file needs an onnxruntime for GPUs.

    Raises:
        UsageError: no such device.
    """
    gpu = torch.cuda.is_available()
    if gpu and name == "auto" and model.endswith(".onnx"):
        gpu = has_cuda()
    try:
        device = torch.device(("cuda" if gpu else "cpu") if name == "auto" else name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}; for example: auto, cpu, cuda, cuda:1") from None
    if device.type == "cuda" and not gpu:
        raise UsageError(f"--device {name}: torch finds no GPU on this machine")
    return device
