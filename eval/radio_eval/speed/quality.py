"""Quality numbers of models, from a file, to be drawn against their speed."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Quality = dict[str, dict[str, float]]
"""Model -> metric -> number."""


def read_quality(path: Path) -> Quality:
    """The numbers in a file.

    Args:
        path: the JSON of `radio eval table1`; or .csv with a column "model" and one for each
            metric, where empty cells are unknown.

    Raises:
        ValueError: another kind of file, or cells that are no numbers.
        OSError: it cannot be read.
    """
    text = path.read_text(encoding="utf-8-sig")
    try:
        return _csv(text) if path.suffix.lower() == ".csv" else _table1(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} has no quality numbers: give the .json of `radio eval table1`, or a .csv with "
            f"the columns model,METRIC,...: {error}"
        ) from None


def _csv(text: str) -> Quality:
    found: Quality = {}
    for row in csv.DictReader(text.splitlines(), strict=True):
        name = row.pop("model")
        found[name] = _numbers({metric: cell for metric, cell in row.items() if cell})
    return found


def _table1(content: Mapping[str, Any]) -> Quality:
    return {name: _numbers(row["scores"]) for name, row in content["rows"].items()}


def _numbers(cells: Mapping[str, Any]) -> dict[str, float]:
    numbers = {metric: float(cell) for metric, cell in cells.items() if cell is not None}
    for metric, value in numbers.items():
        if not math.isfinite(value):
            raise ValueError(f"{metric} is {value}")
    return numbers
