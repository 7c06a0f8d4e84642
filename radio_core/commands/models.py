"""List the models that can be loaded by name, with their licences."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from radio_core.commands import UsageError, parse
from radio_core.zoo.registry import ModelCard, list_models, model_card


@dataclass(frozen=True, kw_only=True)
class ModelsOptions:
    """List the models that can be loaded by name, or show the card of one."""

    name: Annotated[str, tyro.conf.Positional] = ""
    """Show the card of this model instead of the list."""
    json: Path | None = None
    """Also write the cards to this file as JSON."""


def main(argv: Sequence[str]) -> int:
    """Run `radio models [NAME]`; returns the exit code."""
    options = parse(ModelsOptions, argv, prog="radio models")
    console = Console()
    if options.name:
        try:
            cards = [model_card(options.name)]
        except ValueError as error:
            raise UsageError(str(error)) from None
        console.print(card_table(cards[0]))
    else:
        cards = list_models()
        console.print(overview(cards))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        entries = [dataclasses.asdict(card) for card in cards]
        options.json.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    return 0


def overview(cards: Sequence[ModelCard]) -> Table:
    """One row a model: name, patch size, width, weights in millions, adaptors, licence."""
    table = Table("model", "patch", "width", "M weights", "adaptors", "licence")
    for card in cards:
        millions = f"{card.parameters / 1e6:.1f}"
        numbers = (str(card.patch_size), str(card.embed_dim), millions)
        table.add_row(card.name, *numbers, ", ".join(card.adaptors), card.licence)
    return table


def card_table(card: ModelCard) -> Table:
    """Everything that is known of one model, a row each."""
    size = card.preferred_resolution
    table = Table(show_header=False)
    rows = {
        "model": card.name,
        "patch size": f"{card.patch_size} px",
        "width": str(card.embed_dim),
        "weights": f"{card.parameters:,}",
        "preferred resolution": f"{size.height} x {size.width} px" if size else "unknown",
        "longest side": f"{card.max_resolution} px" if card.max_resolution else "unknown",
        "adaptors": ", ".join(card.adaptors) or "none",
        "adaptors with text": ", ".join(card.text_adaptors) or "none",
        "teachers": ", ".join(card.teachers) or "unknown",
        "windowed attention": "yes" if card.supports_windows else "no",
        "licence": card.licence or "unknown",
        "file": card.hub_file or "comes with the package",
    }
    for label, value in rows.items():
        table.add_row(label, value)
    return table
