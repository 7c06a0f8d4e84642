"""What was measured for a table so far."""

import statistics
from dataclasses import dataclass, field
from typing import Any

from radio_eval.paper.claims import Judgement, judge
from radio_eval.paper.definitions import PaperTable
from radio_eval.runner import installed_versions


@dataclass(kw_only=True)
class PaperResults:
    """The values of a table, filled student by student.

    Attributes:
        table: what is measured.
        values: variant -> metric -> seed -> value.
        failures: (variant, seed) -> why there is no student.
        metadata: JSON types: options, machine, times.
    """

    table: PaperTable
    values: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    failures: dict[tuple[str, int], str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def add(self, variant: str, metric: str, seed: int, value: float) -> None:
        """Enter one value."""
        self.values.setdefault(variant, {}).setdefault(metric, {})[seed] = value

    def of(self, variant: str, metric: str) -> list[float]:
        """The values of a cell, by seed."""
        return [value for _, value in sorted(self.values.get(variant, {}).get(metric, {}).items())]

    def summary(self, variant: str, metric: str) -> tuple[float, float] | None:
        """Mean and standard deviation (n - 1; 0 of one value); None for an empty cell."""
        values = self.of(variant, metric)
        if not values:
            return None
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return statistics.fmean(values), spread

    def judgements(self) -> list[Judgement]:
        """What became of every claim, in their order."""
        return [judge(claim, self.values, self.table.paper) for claim in self.table.claims]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        table = self.table
        rows = {}
        for name, variant in table.variants.items():
            cells = {}
            for metric in table.metrics:
                found = self.summary(name, metric)
                cells[metric] = {
                    "mean": found and found[0],
                    "std": found and found[1],
                    "by_seed": self.values.get(name, {}).get(metric, {}),
                    "paper": variant.paper.get(metric),
                }
            rows[name] = {"title": variant.title, "cells": cells}
        return {
            "table": table.name,
            "title": table.title,
            "setting": list(table.setting),
            "metrics": {name: metric.title for name, metric in table.metrics.items()},
            "rows": rows,
            "claims": [_claim(judgement) for judgement in self.judgements()],
            "failures": [
                {"variant": variant, "seed": seed, "reason": reason}
                for (variant, seed), reason in self.failures.items()
            ],
            "metadata": {**self.metadata, "versions": installed_versions()},
        }


def _claim(judgement: Judgement) -> dict[str, Any]:
    claim = judgement.claim
    return {
        "text": claim.text,
        "source": claim.source,
        "metric": claim.metric,
        "higher": claim.higher,
        "lower": claim.lower,
        "margin": claim.margin,
        "difference": judgement.mean,
        "std": judgement.spread,
        "by_seed": dict(judgement.differences),
        "paper": judgement.paper,
        "verdict": judgement.verdict,
    }
