"""The model of a demo: RADIO, as a model or as a file that `radio export` wrote."""

from pathlib import Path

import torch

from radio_core.export.runtime import SUFFIXES, ExportedModel, open_engine
from radio_core.models.radio import RadioModel
from radio_core.open import open_model
from radio_core.teachers.radio import RadioVision
from radio_core.vision import VisionModel
from radio_sam.export import PURPOSE as SAM
from radio_sam.export import ExportedImageEncoder

Student = RadioModel | ExportedModel
"""A whole model: images to summaries and features, its heads' among them."""

Model = Student | ExportedImageEncoder


class CannotServe(ValueError):
    """A tab has no use for this model; the message says which one it needs."""


def open_demo_model(
    model: Model | VisionModel | str | Path, device: str | torch.device = "cpu"
) -> Model:
    """Whatever a user calls a RADIO model, ready to be used.

    Args:
        model: one that is open already, and stays where it is; a file that `radio export` wrote,
            whole or `--for sam=SAM`; or whatever `radio_core.open_model` takes. Engines of TensorRT
            and packages of torch.export are programs: open only those that you trust.
        device: where it goes.

    Raises:
        ValueError: as `open_model`, or an exported file that is damaged, for something else, or
            not for this device; `CannotServe` for a model that is no RADIO.
        OSError: as `open_model`.
        ImportError: the package that runs it is missing.
    """
    if isinstance(model, str | Path):
        if Path(model).suffix in SUFFIXES:
            engine = open_engine(model, device)
            if engine.card.purpose == SAM:
                return ExportedImageEncoder(engine)
            return ExportedModel(engine)
        model = open_model(str(model), device=device)
    if isinstance(model, RadioVision):
        return model.radio
    if isinstance(model, RadioModel | ExportedModel | ExportedImageEncoder):
        return model
    raise CannotServe(
        f"the demos show RADIO models, and {model.spec.name} is none; --teacher shows it beside one"
    )


def open_student(model: Model | VisionModel | str | Path) -> Student:
    """`open_demo_model` for a tab that needs a whole model."""
    opened = open_demo_model(model)
    if isinstance(opened, ExportedImageEncoder):
        raise CannotServe(
            f"{opened.engine.files[0].name} holds the image encoder of a Segment Anything alone, "
            "which serves the segment tab; for this one export a whole model: "
            "`radio export onnx MODEL FILE --adaptors NAMES`"
        )
    return opened
