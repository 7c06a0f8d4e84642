"""List the models that can be loaded by name, and write a model in another layout."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from radio_core.zoo.convert import Conversion, Layout, StoredDtype
from radio_core.zoo.convert import convert as convert_model
from radio_core.zoo.releases import ModelCard, list_models, model_card

_CAPTION = (
    "windows: which layers stay global in windowed mode. corners: whether the\n"
    "position grid was resized with align_corners. More: radio models NAME"
)


@dataclass(frozen=True, kw_only=True)
class ModelsOptions:
    """List the models that can be loaded by name, or show the card of one."""

    name: Annotated[str, tyro.conf.Positional] = ""
    """Show the card of this model (a name or a short name) instead of the list."""
    json: Path | None = None
    """Also write the cards to this file as JSON."""


def models(options: ModelsOptions) -> int:
    """List the models that can be loaded by name, with their licences."""
    cards = [model_card(options.name)] if options.name else list_models()
    Console().print(card_table(cards[0]) if options.name else overview(cards))
    derived = ("short_names", "text_adaptors", "teacher_licences", "windows", "hub_file")
    _write_json(
        options.json,
        [dataclasses.asdict(card) | {key: getattr(card, key) for key in derived} for card in cards],
    )
    return 0


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Write a model in another layout, and compare what both compute on one image."""

    source: Annotated[str, tyro.conf.Positional]
    """A model's name, a file, a directory or a hub id."""
    destination: Annotated[Path, tyro.conf.Positional]
    """New or empty directory."""
    to: Layout
    """This toolkit's layout, or that of transformers' own `radio` model; both keep adaptors."""
    dtype: StoredDtype = "float32"
    """The weights are stored in it."""
    overwrite: bool = False
    """Write into a directory that has files, and replace those with the same names."""
    json: Path | None = None
    """Also write what was found to this file as JSON."""


def convert(options: ConvertOptions) -> int:
    """Write a model in this toolkit's layout, or in the one that plain transformers loads."""
    done = convert_model(
        options.source, options.destination, options.to, options.dtype, overwrite=options.overwrite
    )
    print(report(done))
    _write_json(options.json, dataclasses.asdict(done))
    return 0


def report(done: Conversion) -> str:
    """What was written and how far its outputs are from the source's, in a few lines."""
    lines = [
        f"wrote {done.directory} with adaptors: {', '.join(done.adaptors) or 'none'}",
        f"largest difference of outputs, loaded again: {done.difference:.1e} of the largest value",
    ]
    if done.transformers_difference is not None:
        lines.append(f"the same, loaded by transformers: {done.transformers_difference:.1e}")
    return "\n".join(lines)


def _write_json(path: Path | None, value: object) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")


def overview(cards: Sequence[ModelCard]) -> Table:
    """One row a model: names, patch size, windows, position convention, licence."""
    table = Table(box=None, padding=(0, 1, 0, 0), caption=_CAPTION, caption_justify="left")
    for column in ("model", "short name"):
        table.add_column(column, no_wrap=True)
    table.add_column("patch", justify="right", no_wrap=True)
    for column in ("windows", "corners"):
        table.add_column(column, no_wrap=True)
    table.add_column("licence", overflow="fold")
    for card in cards:
        table.add_row(
            card.name,
            ", ".join(card.short_names),
            str(card.patch_size),
            card.windows or "no",
            _yes_no(card.pos_align_corners),
            _brief(card.licence),
        )
    return table


def card_table(card: ModelCard) -> Table:
    """Everything that is known of one model, a row each."""
    size = card.preferred_resolution
    teachers = zip(card.teachers, card.teacher_licences, strict=True)
    rows = {
        "model": card.name,
        "short name": ", ".join(card.short_names) or "none",
        "architecture": card.architecture,
        "patch size": f"{card.patch_size} px",
        "width": str(card.embed_dim),
        "weights": "unknown" if card.parameters is None else f"{card.parameters:,}",
        "preferred resolution": f"{size.height} x {size.width} px" if size else "unknown",
        "longest side": f"{card.max_resolution} px" if card.max_resolution else "unknown",
        "adaptors": ", ".join(card.adaptors) or "not stated",
        "adaptors with text": ", ".join(card.text_adaptors) or "none",
        "teachers (licence)": "\n".join(f"{t} ({licence})" for t, licence in teachers) or "unknown",
        "windowed attention": card.windows or "no",
        "position grid": _positions(card.pos_align_corners),
        "licence": card.licence or "unknown",
        "file": card.hub_file or "comes with the package",
    }
    if card.inferred:
        rows["not certain"] = ", ".join(card.inferred) + " (the checkpoint decides)"
    table = Table(show_header=False)
    for label, value in rows.items():
        table.add_row(label, value)
    return table


def _brief(licence: str) -> str:
    """A licence in few words: what it forbids, or its name."""
    return "non-commercial" if "non-commercial" in licence else licence.removesuffix(" License")


def _yes_no(value: bool | None) -> str:
    return "-" if value is None else ("yes" if value else "no")


def _positions(align_corners: bool | None) -> str:
    if align_corners is None:
        return "none"
    if not align_corners:
        return "resized by half-pixel centres (align_corners=False)"
    return (
        "resized with align_corners=True in training; today's official code, and so the default, "
        "uses False (pos_align_corners=True restores it)"
    )
