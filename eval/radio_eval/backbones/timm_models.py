"""Any model of timm: by name, or from a folder as timm itself saves models for the hub."""

from typing import Any, cast

import timm
import torch

from radio_core.teachers.timm_models import load, local_folder
from radio_eval.backbones.teachers import features_of, fitted, summary_of
from radio_eval.eval_model import CentreCrop, EvalModel, Interpolation

_timm: Any = timm  # parts of it are typed, others not


def load_timm(name: str, device: str | torch.device = "cpu") -> EvalModel:
    """A pretrained model of timm without its classifier.

    Images are brought to the size, and normalised, as the model's own configuration says. Models
    whose position embedding can be resized take other sizes too.

    Args:
        name: "vit_base_patch16_224.augreg_in1k", "hf-hub:ORG/REPO", "local-dir:FOLDER", or a
            folder with config.json and model.safetensors.
        device: where it goes.

    Raises:
        ValueError: timm has no such model, or no such weights of it.
        FileNotFoundError: the folder has no model.
        OSError: the weights cannot be downloaded; the message says where to put them.
    """
    teacher = load(f"timm:{name}", name)
    crop = fitted(_crop(_timm.data.resolve_model_data_config(teacher.network), name), teacher)
    folder = local_folder(name)
    return EvalModel(
        name=name if folder is None else folder.name,
        image_size=crop.size,
        resize_step=teacher.spec.step,
        square=not teacher.spec.flexible,
        summary=summary_of(teacher, any_size=True),
        features=features_of(teacher, any_size=True),
        crop=crop,
        module=teacher.to(device),
    )


def _crop(settings: dict[str, Any], name: str) -> CentreCrop:
    """timm's evaluation transform."""
    _, height, width = settings["input_size"]
    mode = settings["crop_mode"]
    if height != width or mode not in ("center", "squash"):
        raise ValueError(
            f"timm model {name!r} sees images of {height} x {width} pixels, cropped by {mode!r}; "
            "known: squares, cropped by 'center' or 'squash'"
        )
    return CentreCrop(
        size=width,
        resize=int(width / settings["crop_pct"]),
        squash=mode == "squash",
        interpolation=cast(Interpolation, settings["interpolation"]),
    )
