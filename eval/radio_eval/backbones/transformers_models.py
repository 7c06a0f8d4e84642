"""Vision models of transformers, from the hub or a folder, with their own preprocessing."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from radio_core.extras import require
from radio_core.teachers.files import model_folder
from radio_core.teachers.transformers_models import TransformersTeacher, load, processor_settings
from radio_eval.backbones.teachers import features_of, fitted, summary_of
from radio_eval.eval_model import CentreCrop, EvalModel, ImageText, Interpolation


def load_transformers(source: str, device: str | torch.device = "cpu") -> EvalModel:
    """A pretrained vision model of transformers, or the image tower of one with two.

    Args:
        source: hub id or folder.
        device: where it goes.

    Raises:
        ValueError: another kind of model; the known ones are listed.
        OSError: no such folder or hub id.
        ImportError: transformers is missing; the message names the extra.
    """
    teacher = load(f"hf:{source}", source)
    settings, config = processor_settings(model_folder(source)), teacher.network.config
    crop = fitted(_crop(settings, teacher.spec.input_size, source), teacher)
    text = None
    if teacher.family.text:
        encode_text = _text_encoder(teacher, source)
        text = ImageText(encode_image=summary_of(teacher, any_size=True), encode_text=encode_text)
    return EvalModel(
        name=Path(source).name if Path(source).is_dir() else source,
        image_size=crop.size,
        resize_step=teacher.spec.step,
        square=not teacher.family.any_size,
        summary=summary_of(teacher, any_size=True),
        features=features_of(teacher, any_size=True),
        image_text=text,
        crop=crop,
        module=teacher.to(device),
        config=config.to_json_string(),
    )


def _crop(settings: Mapping[str, Any], image_size: int, source: str) -> CentreCrop:
    """The processor's resize and crop; the model's own size without a processor."""
    size = settings.get("size") or {"height": image_size, "width": image_size}
    shorter = size if isinstance(size, int) else size.get("shortest_edge")
    sides = (shorter, shorter) if shorter else (size.get("height"), size.get("width"))
    cut = settings.get("crop_size") if settings.get("do_center_crop") else None
    target = (cut, cut) if isinstance(cut, int) else sides
    if isinstance(cut, dict):
        target = (cut.get("height"), cut.get("width"))
    if not target[0] or not sides[0] or sides[0] != sides[1] or target[0] != target[1]:
        raise ValueError(
            f"the image processor of {source} makes images of size {size}, cropped to {cut}; "
            "known: squares, or a shortest edge with a square crop"
        )
    resample = Image.Resampling(settings.get("resample", Image.Resampling.BICUBIC))
    return CentreCrop(
        size=int(target[0]),
        resize=int(sides[0]),
        squash=not shorter,
        interpolation=cast(Interpolation, resample.name.lower()),
    )


def _text_encoder(teacher: TransformersTeacher, source: str) -> Callable[[Sequence[str]], Tensor]:
    """Its text tower; the tokenizer is read when texts come."""
    network: Any = teacher.network
    padding = "max_length" if network.config.model_type == "siglip" else True
    tokenizers: list[Any] = []

    def encode(texts: Sequence[str]) -> Tensor:
        if not tokenizers:
            transformers = require("transformers", extra="hf")
            tokenizers.append(transformers.AutoTokenizer.from_pretrained(source))
        limit = network.config.text_config.max_position_embeddings
        tokens = tokenizers[0](
            list(texts), padding=padding, truncation=True, max_length=limit, return_tensors="pt"
        )
        output = network.get_text_features(**tokens.to(teacher.mean.device))
        # A tensor until transformers 4, an output with the tensor in it from 5 on.
        return cast(Tensor, output if isinstance(output, Tensor) else output.pooler_output)

    return encode
