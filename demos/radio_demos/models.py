"""The model of a demo: a RADIO model, or a file that `radio export` wrote."""

from dataclasses import dataclass
from pathlib import Path

import torch

from radio_core.export.runtime import SUFFIXES, ExportedModel, open_engine
from radio_core.models.radio import RadioModel
from radio_core.vision import Resolution
from radio_core.zoo.load import load_model
from radio_sam.export import PURPOSE as SAM

Student = RadioModel | ExportedModel
"""A whole model: images to summaries and features."""


@dataclass(frozen=True, kw_only=True)
class EncoderFile:
    """The image encoder of a Segment Anything, as an exported file.

    Attributes:
        path: the file.
        device: where it runs.
    """

    path: Path
    device: torch.device


Model = Student | EncoderFile


class CannotServe(ValueError):
    """A tab has no use for this model; the message says which one it needs."""


def open_model(model: Model | str | Path, device: str | torch.device = "cpu") -> Model:
    """Whatever a user calls a model, ready to be used.

    Args:
        model: one that is open already, and stays where it is; a file that `radio export` wrote
            (.onnx, .engine, .pt2), whole or `--for sam=SAM`; or whatever `radio_core.load_model`
            takes. Engines of TensorRT and packages of torch.export are programs: open only those
            that you trust.
        device: where it goes.

    Raises:
        ValueError: as `load_model`, or an exported file that is damaged, for something else, or
            not for this device.
        OSError: as `load_model`.
        ImportError: the package that runs an exported file is missing.
    """
    if not isinstance(model, str | Path):
        return model
    if Path(model).suffix not in SUFFIXES:
        return load_model(model, device=device)
    engine = open_engine(model, device)
    if engine.card.purpose == SAM:
        return EncoderFile(path=Path(model), device=engine.device)
    return ExportedModel(engine)


def open_student(model: Model | str | Path) -> Student:
    """`open_model` for a tab that needs a whole model.

    Raises:
        CannotServe: the file holds SAM's image encoder alone.
    """
    opened = open_model(model)
    if isinstance(opened, EncoderFile):
        raise CannotServe(
            f"{opened.path.name} holds the image encoder of a Segment Anything alone, which serves "
            "the segment tab; for this one export a whole model: "
            "`radio export onnx MODEL FILE --adaptors NAMES`"
        )
    return opened


def device_of(model: Model) -> torch.device:
    """Where a model computes."""
    return next(model.parameters()).device if isinstance(model, RadioModel) else model.device


def name_of(model: Student) -> str:
    """What a model calls itself; "" if nothing."""
    return (model.card if isinstance(model, ExportedModel) else model.config).name


def teachers_of(model: Student) -> dict[str, str]:
    """Teacher -> the adaptor that imitates it, as far as known: exported files do not say it."""
    if isinstance(model, ExportedModel):
        return {}
    return dict(zip(model.config.teachers, model.adaptors, strict=False))


def only_size(model: Student) -> Resolution | None:
    """The (height, width) in pixels of the only images that a model takes; None if it takes any."""
    if isinstance(model, RadioModel):
        return model.config.backbone.fixed_size
    size = model.card.fixed_size
    return None if size is None else Resolution(*size)
