"""The linear head of the probe: its layers, its loss and its learning rate, as mmseg has them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio_eval.data import IGNORED
from radio_eval.linear_seg.protocol import LinearSegParameters

_FLOATS_AT_ONCE = 2**26
"""Upsampled logits whose gradient is computed at once: 256 MB, and a few times that in all."""


def make_head(channels: int, num_classes: int) -> nn.Sequential:
    """BatchNorm and a 1x1 convolution with bias: features [B, C, h, w] -> logits [B, K, h, w].

    Always a plain BatchNorm: it sees the features of the whole batch, whichever processes
    computed them, as a synchronised one would.
    """
    classifier = nn.Conv2d(channels, num_classes, kernel_size=1)
    nn.init.normal_(classifier.weight, std=0.01)
    if classifier.bias is not None:
        nn.init.zeros_(classifier.bias)
    return nn.Sequential(nn.BatchNorm2d(channels), classifier)


def pixel_loss(logits: Tensor, labels: Tensor, ignore_index: int = IGNORED) -> Tensor:
    """Cross entropy summed over labelled pixels, divided by all pixels, ignored ones included.

    Args:
        logits: [B, K, h, w], upsampled bilinearly to the labels.
        labels: [B, H, W] int64 in [0, K) or `ignore_index`.
    """
    upsampled = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(upsampled, labels, ignore_index=ignore_index, reduction="sum")
    return total / labels.numel()


def backward_pixel_loss(logits: Tensor, labels: Tensor, ignore_index: int = IGNORED) -> None:
    """The backward pass of `pixel_loss`, a few images at a time to bound the memory.

    Args:
        logits: [B, K, h, w] with a graph.
        labels: [B, H, W] integers.
    """
    floats = logits.shape[1] * labels.shape[-2] * labels.shape[-1]
    at_once = max(1, _FLOATS_AT_ONCE // floats)
    gradients = []
    for part, truth in zip(logits.detach().split(at_once), labels.split(at_once), strict=True):
        leaf = part.requires_grad_()
        share = pixel_loss(leaf, truth.long(), ignore_index) * (len(part) / len(logits))
        gradients.append(torch.autograd.grad(share, leaf)[0])
    logits.backward(torch.cat(gradients))


def learning_rate_at(step: int, parameters: LinearSegParameters) -> float:
    """Linear warm-up, then polynomial decay to 0 at the last step, step by step as mmengine's.

    Args:
        step: from 0 to `iterations` - 1.
        parameters: the protocol.
    """
    p = parameters
    if step < p.warmup_iterations:
        share = step / max(1, p.warmup_iterations - 1)
        return p.warmup_start + (p.learning_rate - p.warmup_start) * share
    left = (p.iterations - 1 - step) / max(1, p.iterations - 1 - p.warmup_iterations)
    return float(p.learning_rate * left**p.poly_power)
