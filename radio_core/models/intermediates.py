"""Which blocks an intermediate-layer request means, and how their tokens are put together."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from radio_core.models.vit import TokenStates, VisionTransformer

Aggregation = Literal["sparse", "dense"]


def collect_layers(
    vit: VisionTransformer,
    images: Tensor,
    indices: int | Sequence[int],
    aggregation: Aggregation = "sparse",
    stop_early: bool = False,
    window_size: int | None = None,
) -> TokenStates:
    """Run a ViT and keep the tokens of the requested blocks.

    Args:
        vit: the backbone.
        images: [B, 3, H, W], normalised.
        indices: the last n blocks, or block indices (negative ones count from the end).
        aggregation: "sparse": the tokens after each block asked for; "dense": the mean over the
            blocks after the previous one asked for, up to and including this one.
        stop_early: run no block after the last one asked for.
        window_size: as in `VisionTransformer.forward`.

    Returns:
        One entry of `collected` per distinct block asked for, in ascending order.

    Raises:
        ValueError: an index outside of the model, or an unknown aggregation.
    """
    if aggregation not in ("sparse", "dense"):
        raise ValueError(f'unknown aggregation {aggregation!r}; known: "sparse", "dense"')
    wanted = block_indices(indices, len(vit.blocks))
    collect = wanted if aggregation == "sparse" else list(range(wanted[-1] + 1))
    depth = wanted[-1] + 1 if stop_early else None
    states = vit.run_blocks(images, window_size, collect=collect, depth=depth)
    if aggregation == "sparse":
        return states
    starts = [0, *(i + 1 for i in wanted[:-1])]
    groups = [states.collected[a : b + 1] for a, b in zip(starts, wanted, strict=True)]
    means = [torch.stack(group).mean(dim=0) for group in groups]
    return states._replace(collected=means)


def block_indices(indices: int | Sequence[int], depth: int) -> list[int]:
    """The distinct blocks of `depth` that `indices` means, ascending, counted from 0."""
    if isinstance(indices, int):
        indices = range(depth - indices, depth) if 1 <= indices <= depth else ()
    if not indices or not all(-depth <= i < depth for i in indices):
        raise ValueError(
            f"indices must be a number of blocks from 1 to {depth}, or block indices "
            f"from {-depth} to {depth - 1}"
        )
    return sorted({i % depth for i in indices})
