"""A name for weights: whatever was computed with them can be told from what others would give."""

import hashlib

import torch
from torch import nn


def weights_fingerprint(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and values of all weights, wherever they are."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
