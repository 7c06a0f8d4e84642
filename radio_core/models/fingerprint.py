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
    """SHA-256 over all that decides a module's outputs, wherever it is.

    That is its structure as it prints itself, and the names, types, shapes and values of its
    parameters and of all buffers, also those that checkpoints leave out.
    """
    digest = hashlib.sha256(f"{module!r}\n".encode())
    for name, tensor in sorted({**dict(module.named_buffers()), **module.state_dict()}.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
