"""The device that a process computes on."""

import torch


def choose_device(name: str = "auto", model: str = "") -> torch.device:
    """The device of that name; "auto" is a GPU where there is one.

    Args:
        name: such as "cpu", "cuda:1" or "auto".
        model: source of the model that shall run there; an .onnx file needs an onnxruntime for
            GPUs.

    Raises:
        ValueError: no such device.
    """
    gpu = torch.cuda.is_available()
    if gpu and name == "auto" and model.endswith(".onnx"):
        from radio_core.export.onnx import has_cuda

        gpu = has_cuda()
    try:
        device = torch.device(("cuda" if gpu else "cpu") if name == "auto" else name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}; for example: auto, cpu, cuda, cuda:1") from None
    if device.type == "cuda" and not gpu:
        raise ValueError(f"device {name}: torch finds no GPU on this machine")
    return device
