"""How the loss terms of several teachers are weighed against each other (paper 3.4.1, table 4).

A term is "<teacher>/summary" or "<teacher>/features". Balancers see the terms' plain losses; the
fixed weights of the config multiply what comes out, so they keep their meaning under every scheme.
Weights follow from parameters and buffers alone, never from the batch at hand in another process:
micro-batches and processes of one step therefore share them, and checkpoints hold all of it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from radio_core.streams import Stream

MOMENTUM = 0.99
"""Of the moving averages of `AdaLoss` (the paper's)."""

_LEAST_LOSS = 1e-6  # below it a term counts as learnt: its weight grows no further


class Balanced(NamedTuple):
    """Weighed losses of one batch.

    Attributes:
        terms: term -> scalar; their sum is what is differentiated.
        weights: term, or teacher where a scheme weighs whole teachers -> mean weight in this
            batch, a detached scalar for the log. Empty for fixed weights.
    """

    terms: dict[str, Tensor]
    weights: dict[str, Tensor]


class Balancer(nn.Module):
    """Base class of the schemes, which are entry points of `radio.balancers`.

    Its parameters are vectors, which the optimizer leaves without weight decay.

    Args:
        terms: every term of the run, also of groups that have their turn at other steps.
        width: channels of the student's features.
    """

    per_sample = False
    """True if the losses must come as [B], one for each sample, rather than as their mean."""

    between_teachers = False
    """True if it has no effect where no batch has two teachers."""

    def __init__(self, terms: Sequence[str], width: int) -> None:
        super().__init__()

    def forward(self, losses: Mapping[str, Tensor], representation: Tensor) -> Balanced:
        """Weigh the losses of one batch.

        Args:
            losses: term -> mean loss, or [B] losses if `per_sample`; only the terms at hand.
            representation: the student's pooled features [B, width].
        """
        raise NotImplementedError

    def observe(self, losses: Mapping[str, Tensor]) -> None:
        """Learn from the losses of a finished optimizer step.

        Args:
            losses: term -> mean loss over all samples that the step used: over micro-batches and
                over every process, so that all processes stay alike.
        """


class Naive(Balancer):
    """Every term counts as the config says."""

    def forward(self, losses: Mapping[str, Tensor], representation: Tensor) -> Balanced:
        """The losses as they are; see `Balancer.forward`."""
        return Balanced(dict(losses), {})


class Uncertainty(Balancer):
    """Cipolla et al. 2018: sum of exp(-s) L / 2 + s / 2 with a learned s = log sigma^2 a term."""

    def __init__(self, terms: Sequence[str], width: int) -> None:
        super().__init__(terms, width)
        # One parameter a term: those that are not at hand get no gradient and stay as they are.
        self.log_variance = nn.ParameterDict({term: torch.zeros(1) for term in terms})

    def forward(self, losses: Mapping[str, Tensor], representation: Tensor) -> Balanced:
        """Weights exp(-s) / 2, and s / 2 added to each term; see `Balancer.forward`."""
        terms, weights = {}, {}
        for term, loss in losses.items():
            spread = self.log_variance[term].squeeze(0)
            weight = torch.exp(-spread) / 2
            terms[term] = weight * loss + spread / 2
            weights[term] = weight.detach()
        return Balanced(terms, weights)


class AdaLoss(Balancer):
    """Hu et al. 2019: weight 1 / (moving average of the loss), so that all progress alike.

    The averages are bias-corrected from their first value on and hold the steps before the
    present one. The weights of all terms seen so far have mean 1; a term not seen yet has weight 1.
    """

    average: Tensor
    count: Tensor

    def __init__(self, terms: Sequence[str], width: int) -> None:
        super().__init__(terms, width)
        self.terms = tuple(terms)
        self.register_buffer("average", torch.zeros(len(terms)))
        self.register_buffer("count", torch.zeros(len(terms)))

    def forward(self, losses: Mapping[str, Tensor], representation: Tensor) -> Balanced:
        """Weights from the steps before; see `Balancer.forward`."""
        seen = self.count > 0
        inverse = torch.where(seen, 1 / self.average.clamp(min=_LEAST_LOSS), 0.0)
        scale = inverse.sum() / seen.sum()  # 0 / 0 before the first step, where nothing uses it
        values = torch.where(seen, inverse / scale, 1.0)
        weights = {term: values[self.terms.index(term)] for term in losses}
        return Balanced({term: weights[term] * loss for term, loss in losses.items()}, weights)

    @torch.no_grad()
    def observe(self, losses: Mapping[str, Tensor]) -> None:
        """Move the averages of the given terms; see `Balancer.observe`."""
        for term, loss in losses.items():
            place = self.terms.index(term)
            self.count[place] += 1
            # With this rate the average is the bias-corrected one: sum m^k L / sum m^k.
            corrected = -torch.expm1(self.count[place] * math.log(MOMENTUM))
            rate = (1 - MOMENTUM) / corrected
            self.average[place] += rate * (loss.to(self.average) - self.average[place])


class AmtmlKd(Balancer):
    """Liu et al. 2020: weights of the teachers by sample, learned with the student.

    Teacher t scores v . (theta_t * h) on the representation h of a sample; softmax over the
    teachers at hand gives the weights of both terms of each. All start equal (v = 0). Nothing
    stops the weights from settling on the teacher that is easiest to imitate, as the paper found.
    """

    per_sample = True
    between_teachers = True

    def __init__(self, terms: Sequence[str], width: int) -> None:
        super().__init__(terms, width)
        self.teachers = tuple(dict.fromkeys(teacher_of(term) for term in terms))
        self.shared = nn.Parameter(torch.zeros(width))
        self.latent = nn.ParameterList(torch.randn(width) for _ in self.teachers)

    def forward(self, losses: Mapping[str, Tensor], representation: Tensor) -> Balanced:
        """Weights in (0, 1) that add up to 1 over the teachers; see `Balancer.forward`."""
        names = list(dict.fromkeys(teacher_of(term) for term in losses))
        latent = [self.latent[self.teachers.index(name)] for name in names]
        shared = representation.float() * self.shared
        scores = torch.stack([(shared * vector).sum(dim=-1) for vector in latent], dim=-1)
        weights = dict(zip(names, scores.softmax(dim=-1).unbind(dim=-1), strict=True))  # [B] each
        terms = {t: (weights[teacher_of(t)] * loss).mean() for t, loss in losses.items()}
        return Balanced(terms, {name: value.detach().mean() for name, value in weights.items()})


def teacher_of(term: str) -> str:
    """The teacher of a term "<teacher>/summary" or "<teacher>/features"."""
    return term.partition("/")[0]


def kept_teachers(
    teachers: tuple[str, ...], probability: float, seed: int, number: int, group: int = 0
) -> tuple[str, ...]:
    """The teachers of a group that a step uses, when each is left out with some probability.

    A function of its arguments, so a resumed run and every process leave out the same ones.

    Args:
        teachers: the group's.
        probability: in [0, 1), of leaving out each of them.
        seed: of the run.
        number: of the step, from 1.
        group: place of the group among those of its stage.

    Returns:
        At least one, in the same order; where all would be left out, one drawn at random.
    """
    rng = Stream.DROPPED_TEACHERS.rng(seed, number, group)
    draws = rng.random(len(teachers))
    kept = tuple(n for n, draw in zip(teachers, draws, strict=True) if draw >= probability)
    return kept or (teachers[int(rng.integers(len(teachers)))],)
