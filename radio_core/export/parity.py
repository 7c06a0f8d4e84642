"""Whether an exported network computes what the model computes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from radio_core.export.card import ExportCard, Precision
from radio_core.export.subject import Watch, nearest_size

TOLERANCES: dict[Precision, float] = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest error that is accepted, as a share of the largest value of the output."""

_SIZES = ((224, 224), (160, 288), (320, 224))
_SEED = 20


class ParityError(ValueError):
    """The exported network computes something else."""


@dataclass(frozen=True)
class ParityCase:
    """Images and what the model in float32 says about them.

    Attributes:
        images: [B, 3, H, W] in [0, 1].
        expected: output name -> tensor.
    """

    images: Tensor
    expected: dict[str, Tensor]

    @property
    def label(self) -> str:
        """BATCHxHEIGHTxWIDTH."""
        batch, _, height, width = self.images.shape
        return f"{batch}x{height}x{width}"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far the outputs of one case are from the model's.

    Attributes:
        case: BATCHxHEIGHTxWIDTH.
        output: the output that is farthest.
        error: largest difference / largest value of that output.
    """

    case: str
    output: str
    error: float


def parity_cases(
    run: Callable[[Tensor], dict[str, Tensor]], shapes: Sequence[Sequence[int]], watch: Watch
) -> list[ParityCase]:
    """Run what is to be compared with.

    Args:
        run: images -> output name -> tensor; of a model `Subject.run`.
        shapes: (batch, height, width) of each case.
        watch: listener.
    """
    generator = torch.Generator().manual_seed(_SEED)
    cases = []
    for index, (batch, height, width) in enumerate(shapes):
        watch("running the model", index, len(shapes))
        images = torch.rand(batch, 3, height, width, generator=generator)
        cases.append(ParityCase(images, run(images)))
    return cases


def parity_shapes(card: ExportCard) -> list[tuple[int, int, int]]:
    """(batch, height, width) of three cases: three sizes, one of them no square, and batches."""
    sizes = list(dict.fromkeys(nearest_size(card, *size) for size in _SIZES))
    while card.fixed_size is None and len(sizes) < 3:  # a step so long that they coincide
        height, width = sizes[-1]
        sizes.append(nearest_size(card, height, width + card.resolution_step))
    return [(batch, *sizes[batch % len(sizes)]) for batch in (1, 2, 3)]


def check_parity(
    cases: Sequence[ParityCase],
    run: Callable[[Tensor], Mapping[str, Tensor]],
    tolerance: float,
    what: str,
    watch: Watch,
) -> list[Difference]:
    """Compare a network with the model.

    Args:
        cases: from `parity_cases`.
        run: images -> output name -> tensor.
        tolerance: largest error that is accepted, as a share of the largest value.
        what: the network, for the message of an error.
        watch: listener.

    Returns:
        The largest difference of each case.

    Raises:
        ParityError: an error above the tolerance, NaN or infinity included.
    """
    differences = []
    for index, case in enumerate(cases):
        watch(f"checking {what}", index, len(cases))
        found = run(case.images)
        errors = {name: _error(found[name], wanted) for name, wanted in case.expected.items()}
        output = max(errors, key=lambda name: errors[name])
        differences.append(Difference(case=case.label, output=output, error=errors[output]))
    worst = max(differences, key=lambda difference: difference.error)
    if not worst.error <= tolerance:
        raise ParityError(
            f"{what} differs from the model: {worst.output} of {worst.case} by {worst.error:.1e} "
            f"of its largest value, more than {tolerance:.0e}; nothing was written"
        )
    return differences


def _error(found: Tensor, wanted: Tensor) -> float:
    """Largest difference / largest wanted value; infinite for another shape, or for NaN."""
    if found.shape != wanted.shape:
        return float("inf")
    found, wanted = found.float().cpu(), wanted.float().cpu()
    error = float((found - wanted).abs().max()) / max(float(wanted.abs().max()), 1e-12)
    return error if error == error else float("inf")
