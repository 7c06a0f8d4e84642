"""Files that `radio export` wrote, for the evaluators."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from radio_core.export.onnx import SIDE_SUFFIX
from radio_core.export.runtime import SUFFIXES, ExportedModel, load_exported
from radio_core.export.tensorrt import CARD_SUFFIX
from radio_core.models.fingerprint import files_fingerprint
from radio_eval.eval_model import EvalModel, ImageText
from radio_sam.export import load_exported_sam

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

DEFAULT_SIZE = 224


def is_exported(source: str) -> bool:
    """Whether a name has the form of an exported file."""
    return source.endswith(SUFFIXES)


def load_exported_model(
    source: str, device: str | torch.device = "cpu", adaptor: str = ""
) -> EvalModel:
    """An exported model for the evaluators, which see of it what they see of a RADIO model.

    Args:
        source: the file.
        device: where it runs.
        adaptor: the adaptor in the file that is evaluated; the backbone if empty.

    Raises:
        ValueError: a file of another kind, a damaged one, one for images that are no squares, or
            one without that adaptor.
        OSError: the file cannot be read.
        ImportError: the package that runs it is missing.
    """
    model = load_exported(source, device)
    wanted = model.check_adaptors((adaptor,) if adaptor else ())
    head = adaptor or "backbone"
    fixed = model.card.fixed_size
    if fixed is not None and fixed[0] != fixed[1]:
        raise ValueError(
            f"{source} takes images of {fixed[0]}x{fixed[1]} pixels only, but evaluations use "
            "squares: export it for a square"
        )

    def summary(images: Tensor) -> Tensor:
        found = model.forward_all(images, wanted)[head].summary
        if found is None:
            raise ValueError(f"adaptor {adaptor!r} of {source} has no summary")
        return found

    def features(images: Tensor) -> Tensor:
        return model.forward_all(images, wanted)[head].features

    return EvalModel(
        name=Path(source).name,
        image_size=min(fixed or model.preferred_resolution or (DEFAULT_SIZE,)),
        resize_step=model.min_resolution_step,
        square=fixed is not None,
        summary=summary,
        features=features,
        image_text=_image_text(model, adaptor),
        config=f"{head} of {model.card!r}",
        weights=_weights(source),
    )


def _image_text(model: ExportedModel, adaptor: str) -> ImageText | None:
    """The named adaptor if it has a text tower; the first that has one if none is named."""
    names = [name for name, spec in model.adaptors.items() if spec.text_tower]
    if adaptor:
        names = [name for name in names if name == adaptor]
    if not names:
        return None
    name = names[0]

    def encode_image(images: Tensor) -> Tensor:
        summary = model.forward_all(images, (name,))[name].summary
        assert summary is not None  # text towers go with summaries
        return summary

    def encode_text(texts: Sequence[str]) -> Tensor:
        return model.encode_text(name, texts)

    return ImageText(encode_image=encode_image, encode_text=encode_text)


def load_exported_encoder(source: str, sam: str, device: str | torch.device = "cpu") -> EvalModel:
    """An exported image encoder of a Segment Anything, inside that Segment Anything.

    Args:
        source: the file.
        sam: see `radio_sam.export.load_exported_sam`, as is `device`, and the errors.
        device: where it runs.
    """
    model: Sam = load_exported_sam(source, sam, device)
    return EvalModel(
        name=Path(source).name,
        image_size=int(model.image_encoder.img_size),
        resize_step=1,
        sam=lambda: model,
        weights=_weights(source),
    )


def _weights(source: str) -> str:
    """SHA-256 of an exported file and of what belongs to it."""
    beside = (Path(source + end) for end in ("", SIDE_SUFFIX, CARD_SUFFIX))
    return files_fingerprint(*(path for path in beside if path.is_file()))
