"""SAM 3 from transformers as a teacher: the features just before the neck of its image encoder."""

from typing import Any

from torch import Tensor

from radio_core.teachers.base import Teacher
from radio_core.teachers.licences import licence_of, stated_licence
from radio_core.teachers.sources import model_folder
from radio_core.teachers.transformers_files import load_network, model_class, read_config
from radio_core.teachers.transformers_models import (
    HALF,
    Channels,
    normalisation,
    processor_settings,
)
from radio_core.vision import ModelSpec, Output

_CLASSES = {
    "sam3": "Sam3Model",
    "sam3_video": "Sam3Model",
    "sam3_vision_model": "Sam3VisionModel",
}
"""`model_type` of config.json -> class; a video model holds the image model's weights."""


class Sam3Teacher(Teacher):
    """No summary; features [B, F, h, w] are those that SAM 3's own neck takes.

    Its rotary positions are built for one size, which `load` can choose.

    Args:
        name: name of the teacher.
        encoder: transformers' Sam3VisionModel.
        mean: per-channel mean that is subtracted, RGB in [0, 1].
        std: per-channel standard deviation that is divided by.
        licence: licence of the weights.
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

    @classmethod
    def load(cls, name: str, source: str, input_size: int | None = None) -> "Sam3Teacher":
        """Load a hub id ("facebook/sam3") or a local directory.

        Args:
            name: name of the teacher.
            source: hub id or directory.
            input_size: side in pixels of its input; by default the config's.

        Raises:
            ValueError: another kind of model, weights that do not fit its config, or a
                transformers without SAM 3; the message says which has it.
            DownloadError: the files cannot be downloaded; the message says where to put them.
        """
        folder = model_folder(source)
        config = read_config(name, folder)
        kind = config.model_type
        if kind not in _CLASSES:
            raise ValueError(
                f"{source} is a {kind!r} model; needed is one of {', '.join(_CLASSES)}"
            )
        if input_size is not None:
            of_images = getattr(config, "detector_config", config)
            vision = getattr(of_images, "vision_config", of_images)
            vision.backbone_config.image_size = input_size
        part = "" if kind == "sam3_vision_model" else "vision_encoder"
        network: Any = load_network(
            name, model_class(name, _CLASSES[kind], kind), folder, part, config=config
        )
        mean, std = normalisation(processor_settings(folder), HALF, HALF, str(folder))
        licence = licence_of(name, stated_licence(folder)).name
        return cls(name, network.vision_encoder if part else network, mean, std, licence)

    def extract(self, images: Tensor) -> Output:
        """No summary, features [B, F, h, w]."""
        tokens: Tensor = self.trunk(pixel_values=images).last_hidden_state  # [B, h * w, F]
        rows = images.shape[-2] // self.spec.patch_size
        return Output(None, tokens.transpose(1, 2).unflatten(2, (rows, -1)))
