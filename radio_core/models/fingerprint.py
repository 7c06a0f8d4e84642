"""A name for weights: whatever was computed with them can be told from what others would give."""

import hashlib
from pathlib import Path

import torch
from torch import nn

_CHUNK = 2**20


def files_fingerprint(*paths: Path) -> str:
    """SHA-256 over the contents of files, one after the other.

    Raises:
        OSError: one cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def weights_fingerprint(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and values of all weights, wherever they are."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
