"""Vision models of transformers as teachers: DINOv2, DINOv3, CLIP, SigLIP, ViT and any other."""

import hashlib
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from PIL import Image
from torch import Tensor, nn

from radio_core.extras import require
from radio_core.models.normalizers import CLIP_MEAN, CLIP_STD
from radio_core.teachers.base import Teacher
from radio_core.teachers.files import load_network, model_class, model_folder, read_config
from radio_core.teachers.licences import licence_of, stated_licence
from radio_core.vision import CentreCrop, Interpolation, ModelSpec, Output

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
DEFAULT_SIZE = 224
"""Side in pixels of the images for a model whose files do not say which it takes."""

Channels = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a kind of model is used.

    Attributes:
        model: transformers' class.
        summary: "class token" after the last norm; the library's "pooled" output, projected into
            the space of the texts where the model has one; or the "first" of pooled output, class
            token and mean of the features that it has.
        mean: of its processor, where the files have none.
        std: the same.
        text: it has a text tower.
        any_size: it takes images of any size without being asked to.
        stride: pixels of a feature cell, where the config has no patch_size.
    """

    model: str
    summary: Literal["class token", "pooled", "first"]
    mean: Channels | None = IMAGENET_MEAN
    std: Channels | None = IMAGENET_STD
    text: bool = False
    any_size: bool = False
    stride: int | None = None


_CLIP = Family(model="CLIPModel", summary="pooled", mean=CLIP_MEAN, std=CLIP_STD, text=True)
_SIGLIP = Family(model="SiglipModel", summary="pooled", mean=HALF, std=HALF, text=True)

FAMILIES: dict[str, Family] = {
    "dinov2": Family(model="Dinov2Model", summary="class token", any_size=True),
    "dinov2_with_registers": Family(
        model="Dinov2WithRegistersModel", summary="class token", any_size=True
    ),
    "dinov3_vit": Family(model="DINOv3ViTModel", summary="class token", any_size=True),
    "dinov3_convnext": Family(
        model="DINOv3ConvNextModel", summary="class token", any_size=True, stride=32
    ),
    "vit": Family(model="ViTModel", summary="class token", mean=HALF, std=HALF),
    "deit": Family(model="DeiTModel", summary="class token"),
    "clip": _CLIP,
    "clip_vision_model": Family(
        model="CLIPVisionModel", summary="pooled", mean=CLIP_MEAN, std=CLIP_STD
    ),
    "metaclip_2": Family(
        model="MetaClip2Model", summary="pooled", mean=CLIP_MEAN, std=CLIP_STD, text=True
    ),
    "siglip": _SIGLIP,
    "siglip_vision_model": Family(model="SiglipVisionModel", summary="pooled", mean=HALF, std=HALF),
}
"""`model_type` of config.json -> how it is used. Others are tried as `_ANY` says."""

_ANY = Family(model="AutoModel", summary="first", mean=None, std=None)


class TransformersTeacher(Teacher):
    """Summary: as its `Family` says. Features: the patch tokens, or the map, of the last layer.

    Position embeddings are interpolated by the library itself for other sizes than its own.

    Args:
        spec: what is known of it.
        network: transformers' model.
        family: how it is used.
        settings: what `processor_settings` says.
        folder: the directory that it is from, which may have a tokenizer.
    """

    def __init__(
        self,
        spec: ModelSpec,
        network: nn.Module,
        family: Family,
        settings: Mapping[str, Any],
        folder: Path,
    ) -> None:
        super().__init__(spec)
        self.network: Any = network
        self.family = family
        self.settings = settings
        self._folder = folder
        self._tokenizer: Any = None
        self.freeze()

    @property
    def crop(self) -> CentreCrop | None:
        """The resize and crop of its processor, at a size that it takes, at most its own."""
        if self._as_square:
            return None
        settings, own = self.settings, self.spec.input_size
        size = settings.get("size") or {"height": own, "width": own}
        shorter = size if isinstance(size, int) else size.get("shortest_edge")
        sides = (shorter, shorter) if shorter else (size.get("height"), size.get("width"))
        cut = settings.get("crop_size") if settings.get("do_center_crop") else None
        target = (cut, cut) if isinstance(cut, int) else sides
        if isinstance(cut, Mapping):
            target = (cut.get("height"), cut.get("width"))
        if not target[0] or not sides[0] or sides[0] != sides[1] or target[0] != target[1]:
            raise ValueError(
                f"the image processor of {self.spec.name} makes images of size {size}, cropped to "
                f"{cut}; known: squares, or a shortest edge with a square crop"
            )
        resample = Image.Resampling(settings.get("resample", Image.Resampling.BICUBIC))
        crop = CentreCrop(
            size=int(target[0]),
            resize=int(sides[0]),
            squash=not shorter,
            interpolation=cast(Interpolation, resample.name.lower()),
        )
        return crop.scaled(max(1, crop.size // self.spec.step) * self.spec.step)

    def fingerprint(self) -> str:
        """SHA-256 over weights, buffers, structure and config."""
        about = f"{super().fingerprint()}\n{self.network.config.to_json_string()}"
        return hashlib.sha256(about.encode()).hexdigest()

    def extract(self, images: Tensor) -> Output:
        """Summary [B, D], features [B, F, h, w]."""
        return Output(*_read(self.network, self.family, images, self.spec.patch_size))

    def image_text(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """The summary, which is in the space of the texts: [B, D] float32."""
        summary = self(images, size).summary
        assert isinstance(summary, Tensor)
        return summary

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """T texts -> [T, D] float32, not normalised; the tokenizer is read at the first call."""
        config = self.network.config
        if self._tokenizer is None:
            transformers = require("transformers", extra="hf")
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(self._folder)
        tokens = self._tokenizer(
            list(texts),
            padding="max_length" if config.model_type == "siglip" else True,
            truncation=True,
            max_length=config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        output = self.network.get_text_features(**tokens.to(self.device))
        # A tensor until transformers 4, an output with the tensor in it from 5 on.
        embeddings: Tensor = output if isinstance(output, Tensor) else output.pooler_output
        return embeddings.float()


def load(
    source: str,
    rest: str,
    input_size: int | None = None,
    licence: str = "",
    kinds: Sequence[str] = (),
) -> TransformersTeacher:
    """Load a hub id ("facebook/dinov2-with-registers-giant") or a local directory.

    Nothing in the files is executed.

    Args:
        source: name of the teacher.
        rest: hub id or directory.
        input_size: not needed: the library interpolates positions by itself.
        licence: of the weights; by default what is known of the name, or what the model card says.
        kinds: the `model_type`s that are wanted; any if empty.
    """
    folder = model_folder(rest)
    config = read_config(source, folder)
    family, kind = _family(source, config, rest, kinds)
    settings = processor_settings(folder)
    mean, std = normalisation(settings, family.mean, family.std, str(folder))
    # Poolers of such models were often never trained; class token and mean need none.
    parameters = inspect.signature(kind).parameters
    arguments: dict[str, Any] = {n: False for n in ("add_pooling_layer",) if n in parameters}
    network = load_network(source, kind, folder, **arguments).eval()
    size = _own_size(getattr(config, "vision_config", config), settings)
    spec = ModelSpec(
        name=source,
        mean=mean,
        std=std,
        licence=licence or licence_of(source, stated_licence(folder)).name,
        square=not family.any_size,
        text=family.text,
        **_measured(source, network, family, size),
    )
    return TransformersTeacher(spec, network, family, settings, folder)


def load_dino(source: str, rest: str, input_size: int | None = None) -> Teacher:
    """Load a DINO of the generation that is before the colon of its source; errors as `load`."""
    kinds = ("dinov2", "dinov2_with_registers")
    if source.startswith("dinov3"):
        kinds = ("dinov3_vit", "dinov3_convnext")
    return load(source, rest, kinds=kinds).as_square()


def processor_settings(folder: Path) -> Mapping[str, Any]:
    """What the preprocessor_config.json of a directory says; nothing where there is none."""
    transformers = require("transformers", extra="hf")
    read = transformers.image_processing_utils.BaseImageProcessor.get_image_processor_dict
    try:
        settings: Mapping[str, Any] = read(folder)[0]
    except OSError:
        return {}
    return settings


def _family(name: str, config: Any, source: str, kinds: Sequence[str]) -> tuple[Family, Any]:
    """How the model of a config is used, and transformers' class of it."""
    kind = config.model_type
    if kinds and kind not in kinds:
        raise ValueError(f"{source} is a {kind!r} model; needed is one of {', '.join(kinds)}")
    if kind in FAMILIES:
        family = FAMILIES[kind]
        projected = "CLIPVisionModelWithProjection"
        wanted = family.model
        if wanted == "CLIPVisionModel" and projected in (config.architectures or ()):
            wanted = projected
        return family, model_class(name, wanted, kind)
    transformers = require("transformers", extra="hf")
    model = transformers.MODEL_MAPPING.get(type(config), None)
    if isinstance(model, tuple):
        model = model[0]
    if kind == "radio" or getattr(model, "main_input_name", "") != "pixel_values":
        hint = f"; RADIO models are radio:{source}" if kind == "radio" else ""
        raise ValueError(
            f"{source} is a {kind!r} model; known: {', '.join(FAMILIES)}, and others that take "
            f"images alone{hint}"
        )
    return _ANY, model


def normalisation(
    settings: Mapping[str, Any], mean: Channels | None, std: Channels | None, where: str
) -> tuple[Channels, Channels]:
    """Per-channel mean and standard deviation of a model's input.

    Args:
        settings: what `processor_settings` says.
        mean: where the settings have none; None if nothing is known.
        std: the same.
        where: the model's directory, for the message of an error.

    Raises:
        ValueError: they are not known.
    """
    if settings.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    known: tuple[Any, Any] = settings.get("image_mean") or mean, settings.get("image_std") or std
    if None in known:
        raise ValueError(
            "the normalisation of the images is not known: put the model's "
            f"preprocessor_config.json (image_mean, image_std) into {where}"
        )
    channels = []
    for values in known:
        numbers = values if isinstance(values, Sequence) else (values,) * 3
        red, green, blue = (float(number) for number in numbers)
        channels.append((red, green, blue))
    return channels[0], channels[1]


def _own_size(config: Any, settings: Mapping[str, Any]) -> int:
    """Side in pixels of the model's own input."""
    crop, size = settings.get("crop_size"), settings.get("size")
    for found in (getattr(config, "image_size", None), crop, size):
        if isinstance(found, Mapping):
            found = found.get("height") or found.get("shortest_edge")
        if isinstance(found, Sequence):
            found = found[0]
        if found:
            return int(found)
    return DEFAULT_SIZE


def _measured(name: str, network: nn.Module, family: Family, size: int) -> dict[str, Any]:
    """The fields of a spec that running the network tells."""
    flexible = family.any_size or bool(_options(network, family))
    try:
        stride = _stride(network, family, size)
        # Two cells a side tell as much of the known kinds as a whole image would.
        tried = 2 * stride if flexible and family is not _ANY else size
        summary, features = _read(network, family, torch.zeros(1, 3, tried, tried), stride)
        summary_dim, feature_dim = summary.shape[1], features.shape[1]
    except Exception as error:  # of any library's model on what may be no input of it
        raise ValueError(
            f"teacher {name}: its model gives no summary and feature map of images alone: {error}"
        ) from error
    names = [name for name, _ in network.named_parameters()]
    # Convolutions have no weights that belong to places in the image.
    flexible = flexible or not any("position" in name or "pos_" in name for name in names)
    return {
        "input_size": max(1, size // stride) * stride if flexible else size,
        "patch_size": stride,
        "summary_dim": summary_dim,
        "feature_dim": feature_dim,
        "flexible": flexible,
    }


def _options(network: nn.Module, family: Family) -> dict[str, bool]:
    """What makes the model interpolate its position embedding, where it can."""
    tower: Any = network.vision_model if family.text else network
    names = inspect.signature(tower.forward).parameters
    return {name: True for name in ("interpolate_pos_encoding",) if name in names}


@torch.no_grad()
def _stride(network: nn.Module, family: Family, size: int) -> int:
    """Pixels of a feature cell."""
    config: Any = network.config
    vision: Any = getattr(config, "vision_config", config)
    patch: Any = family.stride or getattr(vision, "patch_size", None) or 0
    cell = int(patch[0] if isinstance(patch, Sequence) else patch)
    if family is not _ANY:
        return cell
    hidden: Tensor = _run(network, family, torch.zeros(1, 3, size, size)).last_hidden_state
    if hidden.ndim == 3 and cell and (size // cell) ** 2 <= hidden.shape[1]:
        return cell
    side = hidden.shape[-1] if hidden.ndim == 4 else math.isqrt(hidden.shape[1])
    return round(size / side)


def _run(network: nn.Module, family: Family, images: Tensor) -> Any:
    """The output of the (image) tower."""
    tower: Any = network.vision_model if family.text else network
    return tower(pixel_values=images, **_options(network, family))


@torch.no_grad()
def _read(network: nn.Module, family: Family, images: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Summary [B, D] and features [B, F, h, w] of normalised images."""
    output = _run(network, family, images)
    hidden: Tensor = output.last_hidden_state
    rows, columns = (side // stride for side in images.shape[-2:])
    prefix = 0
    if hidden.ndim == 3:  # [B, prefix + h * w, F]
        prefix = hidden.shape[1] - rows * columns
        features = hidden[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))
    else:
        features = hidden
    if tuple(features.shape[-2:]) != (rows, columns):
        raise ValueError(f"features of shape {list(hidden.shape)} are no map of the image")
    if hasattr(output, "image_embeds"):
        return output.image_embeds, features
    pooled: Tensor | None = getattr(output, "pooler_output", None)
    if family.summary != "class token" and pooled is not None:
        projection: Any = getattr(network, "visual_projection", None)
        return pooled.flatten(1) if projection is None else projection(pooled), features
    if family.summary == "class token" or prefix:
        return hidden[:, 0], features
    return features.mean(dim=(2, 3)), features
