"""RADIO itself as a teacher: its backbone, or one of its adaptors."""

import torch
from torch import Tensor

from radio_core.models.radio import RadioModel
from radio_core.models.vit import ViTConfig
from radio_core.teachers.base import Teacher
from radio_core.teachers.licences import licence_of
from radio_core.vision import ModelSpec, Output
from radio_core.zoo.load import load_model

DEFAULT_SIZE = 224
"""Side in pixels of the images for a model that does not say which it prefers."""


class RadioTeacher(Teacher):
    """Summary and features of the backbone, or of the adaptor that is named.

    Args:
        name: name of the teacher.
        radio: the model; its normalisation is taken out of it.
        adaptor: whose outputs; the backbone's if empty.

    Raises:
        ValueError: the model has no such adaptor, or its features are no map.
    """

    def __init__(self, name: str, radio: RadioModel, adaptor: str = "") -> None:
        wanted = radio.check_adaptors((adaptor,) if adaptor else ())
        config, backbone = radio.config, radio.config.backbone
        if getattr(backbone, "feature_start", None) is not None:
            raise ValueError(f"teacher {name}: the features of this model hold other tokens too")
        heads = {spec.name: spec for spec in config.adaptors}
        upsample = heads[adaptor].upsample if adaptor else 1
        step = radio.min_resolution_step
        if radio.patch_size % upsample:
            raise ValueError(
                f"teacher {name}: {upsample} features a patch of {radio.patch_size} pixels are "
                "not a whole number of pixels each"
            )
        sides = radio.preferred_resolution or (DEFAULT_SIZE, DEFAULT_SIZE)
        fixed = isinstance(backbone, ViTConfig) and backbone.positions == "fixed"
        super().__init__(
            ModelSpec(
                name=name,
                input_size=radio.nearest_supported_resolution(min(sides), min(sides)).height,
                mean=config.mean,
                std=config.std,
                patch_size=radio.patch_size // upsample,
                summary_dim=heads[adaptor].summary_dim if adaptor else radio.summary_dim,
                feature_dim=heads[adaptor].feature_dim if adaptor else radio.embed_dim,
                licence=licence_of(name, config.licence).name,
                flexible=not fixed,
                size_step=step,
            )
        )
        radio.make_preprocessor_external()
        self.radio, self._wanted, self._head = radio, wanted, adaptor or "backbone"
        self.freeze()

    @classmethod
    def load(cls, name: str, source: str) -> "RadioTeacher":
        """Load whatever `radio_core.load_model` takes, with "#ADAPTOR" behind it for an adaptor.

        The backbone computes in float32, whatever the checkpoint names.

        Raises:
            ValueError: unknown name or adaptor, or a damaged file.
            OSError: the file cannot be had; the message says where to put it.
        """
        model, _, adaptor = source.partition("#")
        return cls(name, load_model(model, dtype=torch.float32), adaptor)

    def extract(self, images: Tensor) -> Output:
        """Summary [B, D] or None, features [B, F, h, w]."""
        output = self.radio.forward_all(images, self._wanted)[self._head]
        return Output(output.summary, output.features)
