"""What the paper says of its tables, and what became of it here."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Values = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Variant -> metric -> seed -> value."""

SPREADS = 2
"""Standard deviations over the seeds that a difference must exceed to have a direction."""

Outcome = Literal["as in the paper", "within the spread", "not seen here", "not measured"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One direction of a table: `higher` - `lower` > `margin`.

    Attributes:
        text: the claim in words.
        source: where the paper makes it: "caption", "text" or "numbers".
        metric: a metric of the table.
        higher: variant whose value should be the higher one.
        lower: variant that it is compared with; None compares with 0.
        margin: least difference, in the metric's unit; a negative one says "hardly lower".
    """

    text: str
    source: Literal["caption", "text", "numbers"]
    metric: str
    higher: str
    lower: str | None = None
    margin: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What became of a claim.

    Attributes:
        claim: the claim.
        differences: seed -> higher - lower, of the seeds that both variants have.
        paper: the same difference of the paper's printed numbers; None where it prints none.
    """

    claim: Claim
    differences: Mapping[int, float]
    paper: float | None

    @property
    def mean(self) -> float | None:
        """Mean difference over the seeds; None before there are two."""
        return statistics.fmean(self.differences.values()) if self._measured else None

    @property
    def spread(self) -> float | None:
        """Standard deviation (n - 1) of the differences over the seeds."""
        return statistics.stdev(self.differences.values()) if self._measured else None

    @property
    def outcome(self) -> Outcome:
        """Whether the mean difference is beyond the margin by more than `SPREADS` spreads."""
        if self.mean is None or self.spread is None:
            return "not measured"
        beyond = self.mean - self.claim.margin
        # Differences that are equal but for rounding have no spread, and say nothing either.
        if abs(beyond) <= SPREADS * self.spread or math.isclose(
            self.mean, self.claim.margin, abs_tol=1e-9
        ):
            return "within the spread"
        return "as in the paper" if beyond > 0 else "not seen here"

    @property
    def verdict(self) -> str:
        """The outcome; where the paper's direction does not come out, also what did instead."""
        if self.outcome != "not seen here":
            return self.outcome
        if self.claim.lower is None or self.claim.margin:
            return f"{self.outcome}: not above {self.claim.margin:g}"
        return f"{self.outcome}: the other way round"

    @property
    def _measured(self) -> bool:
        return len(self.differences) > 1


def judge(claim: Claim, values: Values, paper: Mapping[str, Mapping[str, float]]) -> Judgement:
    """Compare two variants seed by seed.

    Two variants of one seed saw the same crops in the same order, so what these change in both
    alike drops out of the difference.

    Args:
        claim: the claim.
        values: what was measured so far.
        paper: variant -> metric -> printed number.
    """

    def of(variant: str) -> Mapping[int, float]:
        return values.get(variant, {}).get(claim.metric, {})

    higher = of(claim.higher)
    lower = dict.fromkeys(higher, 0.0) if claim.lower is None else of(claim.lower)
    printed = [paper.get(claim.higher, {}).get(claim.metric)]
    printed += [0.0 if claim.lower is None else paper.get(claim.lower, {}).get(claim.metric)]
    high, low = printed
    return Judgement(
        claim=claim,
        differences={seed: higher[seed] - lower[seed] for seed in sorted({*higher} & {*lower})},
        paper=None if high is None or low is None else high - low,
    )
