"""Any model of timm: by name, or from a folder as timm itself saves models for the hub."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor

from radio_eval.backbones.foreign import ForeignBackbone
from radio_eval.eval_model import CentreCrop, EvalModel, Interpolation

_LOCAL = "local-dir:"
_timm: Any = timm  # parts of it are typed, others not


class TimmBackbone(ForeignBackbone):
    """Summary: what timm's classifier would see. Features: the last map, normalised."""

    def summary(self, images: Tensor) -> Tensor:
        """[B, D], pooled."""
        return cast(Tensor, self.network(self.normalised(images)))

    def features(self, images: Tensor) -> Tensor:
        """[B, C, h, w]."""
        maps: list[Tensor] = cast(Any, self.network).forward_intermediates(
            self.normalised(images), indices=1, norm=True, intermediates_only=True
        )
        return maps[-1]


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
    """
    folder = Path(name.removeprefix(_LOCAL)).expanduser()
    is_local = name.startswith(_LOCAL) or folder.is_dir()
    network: Any = _create(f"{_LOCAL}{folder}" if is_local else name)
    settings = _timm.data.resolve_model_data_config(network)
    backbone = TimmBackbone(network, settings["mean"], settings["std"]).to(device)
    fixed = bool(network.pretrained_cfg.get("fixed_input_size"))
    return EvalModel(
        name=folder.name if is_local else name,
        image_size=settings["input_size"][-1],
        resize_step=int(network.feature_info[-1]["reduction"]),
        square=fixed and not getattr(network, "dynamic_img_size", False),
        summary=backbone.summary,
        features=backbone.features if hasattr(network, "forward_intermediates") else None,
        crop=_crop(settings, name),
        module=backbone,
    )


def _create(source: str) -> Any:
    """The network without its classifier, for images of any size where it can take them."""
    wanted = {"pretrained": True, "num_classes": 0}
    try:
        try:
            return _timm.create_model(source, **wanted, dynamic_img_size=True)
        except TypeError:  # it has no such argument: convolutions take any size
            return _timm.create_model(source, **wanted)
    except RuntimeError as error:
        near = get_close_matches(source, _timm.list_models(pretrained=True), n=3)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise ValueError(
            f"timm cannot load {source!r}: {error}. {hint}`timm.list_models(pretrained=True)` "
            "lists the names"
        ) from error


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
