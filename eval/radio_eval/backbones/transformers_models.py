"""Vision models of transformers, from the hub or a folder, with their own preprocessing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from PIL import Image
from torch import Tensor, nn

from radio_core.extras import require
from radio_eval.backbones.foreign import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    OPENAI_MEAN,
    OPENAI_STD,
    ForeignBackbone,
)
from radio_eval.eval_model import CentreCrop, EvalModel, ImageText, Interpolation


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a kind of model is used.

    Attributes:
        model: transformers' class.
        summary: "class token" after the last norm, or the library's "pooled" output, projected
            into the space of the texts where the model has one.
        any_size: it resizes its position embedding by itself.
        mean: of its processor, where the folder has none.
        std: the same.
        text: it has a text tower.
    """

    model: str
    summary: Literal["class token", "pooled"]
    any_size: bool = False
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    text: bool = False


_CLIP = Family(model="CLIPModel", summary="pooled", mean=OPENAI_MEAN, std=OPENAI_STD, text=True)
_SIGLIP = Family(model="SiglipModel", summary="pooled", mean=HALF, std=HALF, text=True)

FAMILIES: dict[str, Family] = {
    "dinov2": Family(model="Dinov2Model", summary="class token", any_size=True),
    "dinov2_with_registers": Family(
        model="Dinov2WithRegistersModel", summary="class token", any_size=True
    ),
    "dinov3_vit": Family(model="DINOv3ViTModel", summary="class token", any_size=True),
    "vit": Family(model="ViTModel", summary="class token", mean=HALF, std=HALF),
    "deit": Family(model="DeiTModel", summary="class token"),
    "clip": _CLIP,
    "clip_vision_model": Family(
        model="CLIPVisionModel", summary="pooled", mean=OPENAI_MEAN, std=OPENAI_STD
    ),
    "siglip": _SIGLIP,
    "siglip_vision_model": Family(model="SiglipVisionModel", summary="pooled", mean=HALF, std=HALF),
}
"""`model_type` of config.json -> how it is used."""

_PROJECTED = "CLIPVisionModelWithProjection"


class TransformersBackbone(ForeignBackbone):
    """Summary: as its `Family` says. Features: the patch tokens after the last layer.

    Args:
        network: transformers' model.
        family: how it is used.
        mean: see `ForeignBackbone`.
        std: see `ForeignBackbone`.
    """

    def __init__(
        self, network: Any, family: Family, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(network, mean, std)
        self._family = family
        config = network.config
        self.patch_size = int(getattr(config, "vision_config", config).patch_size)

    def summary(self, images: Tensor) -> Tensor:
        """[B, D]."""
        output = self._run(images)
        if self._family.summary == "class token":
            return cast(Tensor, output.last_hidden_state[:, 0])
        if hasattr(output, "image_embeds"):
            return cast(Tensor, output.image_embeds)
        pooled: Tensor = output.pooler_output
        projection: nn.Module | None = getattr(self.network, "visual_projection", None)
        return pooled if projection is None else cast(Tensor, projection(pooled))

    def features(self, images: Tensor) -> Tensor:
        """[B, C, h, w]."""
        rows, columns = (side // self.patch_size for side in images.shape[-2:])
        tokens: Tensor = self._run(images).last_hidden_state  # [B, prefix + h * w, C]
        patches = tokens[:, tokens.shape[1] - rows * columns :]
        return cast(Tensor, patches.transpose(1, 2).unflatten(2, (rows, columns)))

    def _run(self, images: Tensor) -> Any:
        network: Any = self.network
        tower = network.vision_model if self._family.text else network
        return tower(pixel_values=self.normalised(images))


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
    transformers = require("transformers", extra="hf")
    config = transformers.AutoConfig.from_pretrained(source)
    family = FAMILIES.get(config.model_type)
    if family is None:
        hint = ""
        if config.model_type == "radio":
            hint = f"; RADIO models need no hf: in front, --model {source}"
        raise ValueError(
            f"{source} is a {config.model_type!r} model; known: {', '.join(FAMILIES)}{hint}"
        )
    network = _network(transformers, config, family, source)
    settings = _processor_settings(transformers, source)
    vision = getattr(config, "vision_config", config)
    backbone = TransformersBackbone(network, family, *_normalisation(settings, family)).to(device)
    crop = _crop(settings, vision.image_size, source)
    return EvalModel(
        name=Path(source).name if Path(source).is_dir() else source,
        image_size=crop.size,
        resize_step=backbone.patch_size,
        square=not family.any_size,
        summary=backbone.summary,
        features=backbone.features,
        image_text=_image_text(transformers, backbone, source) if family.text else None,
        crop=crop,
        module=backbone,
        config=config.to_json_string(),
    )


def _network(transformers: Any, config: Any, family: Family, source: str) -> Any:
    """The weights in float32, from safetensors or a state dict that is read without executing."""
    name = family.model
    if name == "CLIPVisionModel" and _PROJECTED in (config.architectures or ()):
        name = _PROJECTED
    model = getattr(transformers, name, None)
    if model is None:
        raise ValueError(
            f"transformers {transformers.__version__} has no {name}, which {source} needs: "
            "pip install -U transformers"
        )
    arguments = {"add_pooling_layer": False} if name in ("ViTModel", "DeiTModel") else {}
    return model.from_pretrained(source, **arguments).float()


def _processor_settings(transformers: Any, source: str) -> Mapping[str, Any]:
    """What preprocessor_config.json says; nothing where there is none."""
    read = transformers.image_processing_utils.BaseImageProcessor.get_image_processor_dict
    try:
        settings: Mapping[str, Any] = read(source)[0]
    except OSError:
        return {}
    return settings


def _normalisation(
    settings: Mapping[str, Any], family: Family
) -> tuple[Sequence[float], Sequence[float]]:
    if settings.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return settings.get("image_mean") or family.mean, settings.get("image_std") or family.std


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


def _image_text(transformers: Any, backbone: TransformersBackbone, source: str) -> ImageText:
    """Both towers; the tokenizer is read when texts come."""
    return ImageText(
        encode_image=backbone.summary, encode_text=_text_encoder(transformers, backbone, source)
    )


def _text_encoder(
    transformers: Any, backbone: TransformersBackbone, source: str
) -> Callable[[Sequence[str]], Tensor]:
    network: Any = backbone.network
    padding = "max_length" if network.config.model_type == "siglip" else True
    tokenizers: list[Any] = []

    def encode(texts: Sequence[str]) -> Tensor:
        if not tokenizers:
            tokenizers.append(transformers.AutoTokenizer.from_pretrained(source))
        limit = network.config.text_config.max_position_embeddings
        tokens = tokenizers[0](
            list(texts), padding=padding, truncation=True, max_length=limit, return_tensors="pt"
        )
        output = network.get_text_features(**tokens.to(backbone.mean.device))
        # A tensor until transformers 4, an output with the tensor in it from 5 on.
        return cast(Tensor, output if isinstance(output, Tensor) else output.pooler_output)

    return encode
