"""Which blocks an intermediate-layer request means, and how their tokens are put together."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from radio_core.models.backbone import Backbone, TokenStates
from radio_core.models.normalizers import AlphaScheme, IntermediateNormalizer

Aggregation = Literal["sparse", "dense"]


def collect_layers(
    backbone: Backbone,
    images: Tensor,
    indices: int | Sequence[int],
    aggregation: Aggregation = "sparse",
    stop_early: bool = False,
    window_size: int | None = None,
    normalizer: IntermediateNormalizer | None = None,
    scheme: AlphaScheme = "post-alpha",
) -> TokenStates:
    """Run a transformer and keep the tokens of the requested blocks.

    Args:
        backbone: one with `config.num_blocks`.
        images: [B, 3, H, W], normalised.
        indices: the last n blocks, or block indices (negative ones count from the end).
        aggregation: "sparse": the tokens after each block asked for; "dense": the mean over the
            blocks after the previous one asked for, up to and including this one.
        stop_early: run no block after the last one asked for.
        window_size: as in `Backbone.forward`.
        normalizer: applied to the patches, where the model has one.
        scheme: "pre-alpha" scales each block before the mean, "post-alpha" the mean afterwards;
            "none" leaves the normalizer out.

    Returns:
        One entry of `collected` per distinct block asked for, in ascending order.

    Raises:
        ValueError: an index outside of the model, or an unknown aggregation or scheme.
    """
    for value, known in ((aggregation, get_args(Aggregation)), (scheme, get_args(AlphaScheme))):
        if value not in known:
            raise ValueError(f"unknown choice {value!r}; known: {', '.join(map(repr, known))}")
    wanted = block_indices(indices, backbone.config.num_blocks)
    collect = wanted if aggregation == "sparse" else list(range(wanted[-1] + 1))
    depth = wanted[-1] + 1 if stop_early else None
    states = backbone.run_blocks(images, window_size, collect=collect, depth=depth)
    if scheme == "none":
        normalizer = None
    prefix = backbone.config.num_prefix_tokens
    results = []
    for start, stop in zip([0, *(i + 1 for i in wanted[:-1])], wanted, strict=True):
        layers = [stop] if aggregation == "sparse" else list(range(start, stop + 1))
        tokens = [states.collected[collect.index(layer)] for layer in layers]
        result = torch.stack(tokens).mean(dim=0) if len(tokens) > 1 else tokens[0]
        if normalizer is not None:
            patches = _normalised([t[:, prefix:] for t in tokens], layers, normalizer, scheme)
            result = torch.cat([result[:, :prefix], patches], dim=1)
        results.append(result)
    return states._replace(collected=results)


def _normalised(
    patches: list[Tensor],
    layers: list[int],
    normalizer: IntermediateNormalizer,
    scheme: AlphaScheme,
) -> Tensor:
    """The mean of the normalised patches [B, N, C] of a group of blocks, in its last rotation."""
    rotated = torch.stack(
        [normalizer.rotated(x, i, layers[-1]) for x, i in zip(patches, layers, strict=True)]
    )
    alphas = normalizer.alphas[layers]
    if scheme == "pre-alpha":
        return (rotated * alphas.view(-1, 1, 1, 1)).mean(dim=0)
    return rotated.mean(dim=0) * alphas.mean()


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
