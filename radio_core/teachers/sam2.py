"""SAM 2 from transformers as a teacher: the map that its mask decoder takes."""

import math
from typing import Any

from torch import Tensor

from radio_core.teachers.base import Teacher
from radio_core.teachers.licences import licence_of, stated_licence
from radio_core.teachers.sources import model_folder
from radio_core.teachers.transformers_files import load_network, model_class, read_config
from radio_core.teachers.transformers_models import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Channels,
    normalisation,
    processor_settings,
)
from radio_core.vision import ModelSpec, Output

_CLASSES = {
    "sam2": "Sam2Model",
    "sam2_video": "Sam2Model",
    "sam2_vision_model": "Sam2VisionModel",
}
"""`model_type` of config.json -> class; a video model holds the image model's weights."""


class Sam2Teacher(Teacher):
    """No summary. Features: the coarsest map of the image encoder's pyramid, at stride 16.

    The encoder is a hierarchy, so unlike SAM's it has no single map before its neck; this one
    joins its last two stages, and is what SAM 2 calls the image embedding. Position embeddings are
    interpolated by transformers.

    Args:
        name: name of the teacher.
        encoder: transformers' Sam2VisionModel.
        mean: per-channel mean that is subtracted, RGB in [0, 1].
        std: per-channel standard deviation that is divided by.
        licence: licence of the weights.
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

    @classmethod
    def load(cls, name: str, source: str) -> "Sam2Teacher":
        """Load a hub id ("facebook/sam2.1-hiera-large") or a local directory.

        Raises:
            ValueError: another kind of model, weights that do not fit its config, or a
                transformers without SAM 2; the message says which has it.
            DownloadError: the files cannot be downloaded; the message says where to put them.
        """
        folder = model_folder(source)
        kind = read_config(name, folder).model_type
        if kind not in _CLASSES:
            raise ValueError(
                f"{source} is a {kind!r} model; needed is one of {', '.join(_CLASSES)}"
            )
        part = "" if kind == "sam2_vision_model" else "vision_encoder"
        network: Any = load_network(name, model_class(name, _CLASSES[kind], kind), folder, part)
        mean, std = normalisation(
            processor_settings(folder), IMAGENET_MEAN, IMAGENET_STD, str(folder)
        )
        licence = licence_of(name, stated_licence(folder)).name
        return cls(name, network.vision_encoder if part else network, mean, std, licence)

    def extract(self, images: Tensor) -> Output:
        """No summary, features [B, F, h, w]."""
        pyramid = self.encoder(pixel_values=images).fpn_hidden_states  # fine to coarse
        return Output(None, pyramid[-1])
