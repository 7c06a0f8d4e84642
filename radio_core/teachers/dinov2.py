"""DINOv2, with or without registers, from transformers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from radio_core.extras import require
from radio_core.teachers.base import Teacher, TeacherOutput, TeacherSpec

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class DinoV2Teacher(Teacher):
    """Summary: the class token after the final norm. Features: the patch tokens after it.

    Args:
        name: name of the teacher.
        model: transformers' Dinov2Model or Dinov2WithRegistersModel.
        licence: licence of the weights.
        input_size: side in pixels of its input; by default that of its position grid.
    """

    def __init__(self, name: str, model: Any, licence: str, input_size: int | None = None) -> None:
        config = model.config
        super().__init__(
            TeacherSpec(
                name=name,
                input_size=input_size or config.image_size,
                mean=IMAGENET_MEAN,
                std=IMAGENET_STD,
                patch_size=config.patch_size,
                summary_dim=config.hidden_size,
                feature_dim=config.hidden_size,
                licence=licence,
            )
        )
        self.model = model
        self.num_prefix_tokens = 1 + getattr(config, "num_register_tokens", 0)
        self.freeze()

    @classmethod
    def load(
        cls, name: str, source: str, licence: str = "", input_size: int | None = None
    ) -> "DinoV2Teacher":
        """Load a hub id ("facebook/dinov2-with-registers-giant") or a local directory.

        Raises:
            ValueError: the source holds another kind of model.
        """
        transformers = require("transformers", extra="hf")
        config = transformers.AutoConfig.from_pretrained(source)
        classes = {
            "dinov2": transformers.Dinov2Model,
            "dinov2_with_registers": transformers.Dinov2WithRegistersModel,
        }
        if config.model_type not in classes:
            raise ValueError(
                f"{source} is a {config.model_type!r} model; a DINOv2 teacher needs one of "
                f"{', '.join(classes)}"
            )
        with _without_progress_bar(transformers.utils.logging):
            model = classes[config.model_type].from_pretrained(source).float()
        return cls(name, model, licence, input_size)

    def extract(self, images: Tensor) -> TeacherOutput:
        """Summary [B, D], features [B, D, h, w]."""
        tokens: Tensor = self.model(images).last_hidden_state
        rows = images.shape[-2] // self.spec.patch_size
        patches = tokens[:, self.num_prefix_tokens :].transpose(1, 2)
        return TeacherOutput(tokens[:, 0], patches.unflatten(2, (rows, -1)))


@contextmanager
def _without_progress_bar(logging: Any) -> Iterator[None]:
    """Keep transformers' bar about a few small tensors out of our own progress display."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
