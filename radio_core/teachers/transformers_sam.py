"""SAM 2 and SAM 3 from transformers as teachers: the maps that their decoders start from."""

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from radio_core.teachers.base import Teacher
from radio_core.teachers.files import load_network, model_class, model_folder, read_config
from radio_core.teachers.licences import licence_of, stated_licence
from radio_core.teachers.transformers_models import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Channels,
    normalisation,
    processor_settings,
)
from radio_core.vision import ModelSpec, Output


class Sam2Teacher(Teacher):
    """No summary. Features: the coarsest map of the image encoder's pyramid, at stride 16.

    The encoder is a hierarchy, so unlike SAM's it has no single map before its neck; this one
    joins its last two stages, and is what SAM 2 calls the image embedding. Position embeddings are
    interpolated by transformers.
    """

    def __init__(
        self, name: str, encoder: Any, mean: Channels, std: Channels, licence: str
    ) -> None:
        config, trunk = encoder.config, encoder.config.backbone_config
        stride, pool = trunk.patch_stride[0], trunk.query_stride[0]
        coarsest = stride * pool**trunk.num_query_pool_stages
        super().__init__(
            ModelSpec(
                name=name,
                input_size=trunk.image_size[0],
                mean=mean,
                std=std,
                patch_size=stride * pool ** (config.num_feature_levels - 1),
                summary_dim=None,
                feature_dim=config.fpn_hidden_size,
                licence=licence,
                flexible=True,
                # Its window positions are tiled, and its stages pooled, without remainder.
                size_step=math.lcm(stride * trunk.window_size_per_stage[0], coarsest),
            )
        )
        self.encoder = encoder
        self.freeze()

    def extract(self, images: Tensor) -> Output:
        """No summary, features [B, F, h, w]."""
        pyramid = self.encoder(pixel_values=images).fpn_hidden_states  # fine to coarse
        return Output(None, pyramid[-1])


class Sam3Teacher(Teacher):
    """No summary; features [B, F, h, w] are those that SAM 3's own neck takes.

    Its rotary positions are built for one size, which `load_sam3` can choose.

    Args: as `Sam2Teacher`, with transformers' Sam3VisionModel.
    """

    def __init__(
        self, name: str, encoder: Any, mean: Channels, std: Channels, licence: str
    ) -> None:
        config = encoder.config.backbone_config
        super().__init__(
            ModelSpec(
                name=name,
                input_size=config.image_size,
                mean=mean,
                std=std,
                patch_size=config.patch_size,
                summary_dim=None,
                feature_dim=config.hidden_size,
                licence=licence,
            )
        )
        self.trunk = encoder.backbone
        self.freeze()

    def extract(self, images: Tensor) -> Output:
        """No summary, features [B, F, h, w]."""
        tokens: Tensor = self.trunk(pixel_values=images).last_hidden_state  # [B, h * w, F]
        rows = images.shape[-2] // self.spec.patch_size
        return Output(None, tokens.transpose(1, 2).unflatten(2, (rows, -1)))


def load_sam2(source: str, rest: str, input_size: int | None = None) -> Sam2Teacher:
    """Load a hub id ("facebook/sam2.1-hiera-large") or a local directory."""
    encoder, folder = _vision_encoder(source, rest, "sam2", None)
    mean, std = normalisation(processor_settings(folder), IMAGENET_MEAN, IMAGENET_STD, str(folder))
    licence = licence_of(source, stated_licence(folder)).name
    return Sam2Teacher(source, encoder, mean, std, licence)


def load_sam3(source: str, rest: str, input_size: int | None = None) -> Sam3Teacher:
    """Load a hub id ("facebook/sam3") or a local directory, at a side of `input_size` pixels.

    Raises: as `load_sam2`.
    """
    encoder, folder = _vision_encoder(source, rest, "sam3", input_size)
    mean, std = normalisation(processor_settings(folder), HALF, HALF, str(folder))
    licence = licence_of(source, stated_licence(folder)).name
    return Sam3Teacher(source, encoder, mean, std, licence)


def _vision_encoder(
    name: str, rest: str, generation: str, input_size: int | None
) -> tuple[Any, Path]:
    """transformers' vision encoder of a SAM 2 or 3, and the directory that it is from.

    A video model holds the image model's weights.
    """
    folder = model_folder(rest)
    config = read_config(name, folder)
    kind, alone = config.model_type, f"{generation}_vision_model"
    family = generation.capitalize()
    classes = {
        generation: f"{family}Model",
        f"{generation}_video": f"{family}Model",
        alone: f"{family}VisionModel",
    }
    if kind not in classes:
        raise ValueError(f"{rest} is a {kind!r} model; needed is one of {', '.join(classes)}")
    if input_size is not None:
        of_images = getattr(config, "detector_config", config)
        vision = getattr(of_images, "vision_config", of_images)
        vision.backbone_config.image_size = input_size
    part = "" if kind == alone else "vision_encoder"
    network: Any = load_network(
        name, model_class(name, classes[kind], kind), folder, part, config=config
    )
    return (network.vision_encoder if part else network), folder
