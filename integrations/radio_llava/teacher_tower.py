"""A teacher (CLIP, DINOv2, SAM) with the interface of LLaVA's vision towers.

With these, LLaVA-1.5 is trained on RADIO and on the models that it was distilled from alike, which
is how the paper compares them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from radio_core.config_file import from_mapping
from radio_core.teachers import Teacher, load_teacher
from radio_llava.images import RadioImageProcessor
from radio_llava.shape import TowerShape
from radio_llava.tower_config import FLAGS
from radio_llava.tower_interface import LlavaTower, device_of

RECORDED_TEACHER = "radio_teacher"
"""Field of a LLaVA model's config.json that holds the teacher's name and sizes."""


class TeacherVisionTower(LlavaTower):
    """A frozen teacher in the place of LLaVA's CLIP: its feature map, cell by cell.

    Images are padded to squares with the teacher's mean colour, as LLaVA-1.5 does, and brought to
    its input size. `--mm_vision_select_layer` is CLIP's, and has no effect.

    Args:
        vision_tower: the teacher, as `radio_core.teachers.load_teacher` takes it.
        args: LLaVA's model arguments, or the config of a LLaVA model.
        delay_load: leave the weights for `load_model`.

    Attributes:
        teacher: the model, once loaded.

    Raises:
        ValueError: flags that only RADIO has, an unknown teacher, or another one than the model
            was trained with.
    """

    teacher: Teacher

    def __init__(self, vision_tower: str, args: Any, delay_load: bool = False) -> None:
        super().__init__(vision_tower)
        refuse_radio_flags(vision_tower, args)
        self._recorded = _recorded_shape(vision_tower, args)
        if not delay_load:
            self.load_model()

    def load_model(self, device_map: Any = None) -> None:
        """Load the frozen weights.

        Args:
            device_map: as transformers takes it; the tower goes to one device as a whole.

        Raises:
            ValueError: an unknown teacher, or one of other sizes than the model was trained with.
            ImportError: the teacher's library is missing; the message names the extra.
        """
        if self.is_loaded:
            return
        teacher = load_teacher(self.vision_tower_name)
        shape = _shape_of(teacher)
        if self._recorded not in (None, shape):
            raise ValueError(
                f"the vision tower {self.vision_tower_name} has {shape}, but the model was trained "
                f"with {self._recorded}: put the teacher of its training there"
            )
        self.teacher = teacher
        size = teacher.spec.input_size
        # a step of the whole side: what stands for a missing image is as large as any other
        self.image_processor = RadioImageProcessor(
            size, size, "pad", teacher.spec.mean, teacher.spec.std
        )
        self.is_loaded = True
        device = device_of(device_map)
        if device is not None:
            self.to(device)

    def forward(self, images: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Encode images without gradients.

        Args:
            images: [B, 3, S, S], or several [3, S, S], in [0, 1], from `image_processor`.

        Returns:
            [B, N, C] for a tensor, else a list of [N, C]; in the dtype of the images.

        Raises:
            ValueError: images of another size, or features that are too large for float16.
        """
        size = self.teacher.spec.input_size
        for image in images:
            if image.shape != (3, size, size):
                raise ValueError(
                    f"{self.vision_tower_name} takes images of {size}x{size} pixels, not "
                    f"{tuple(image.shape)}: make them with the tower's image_processor"
                )
        batch = images if isinstance(images, Tensor) else torch.stack([*images])
        features = self.teacher(batch.to(self.device, self.dtype)).features  # [B, C, h, w]
        if self.dtype == torch.float16 and not bool(features.isfinite().all()):
            raise ValueError(
                f"features of {self.vision_tower_name} overflow in float16: use bfloat16 "
                "(--bf16 True) or float32"
            )
        tokens: Tensor = features.flatten(2).transpose(1, 2).to(batch.dtype)  # [B, h*w, C]
        return tokens if isinstance(images, Tensor) else [*tokens]

    def record(self) -> dict[str, Any]:
        """The teacher's name and sizes, for a model's config.json."""
        return {"model": self.vision_tower_name, **dataclasses.asdict(self.config)}

    @property
    def config(self) -> TowerShape:
        """The tower's sizes: recorded in the model's config, or known once the weights are read."""
        if self._recorded is not None:
            return self._recorded
        self.load_model()
        return _shape_of(self.teacher)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the teacher computes."""
        return next(self.teacher.parameters()).dtype if self.is_loaded else torch.float32

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.teacher.parameters()).device if self.is_loaded else torch.device("cpu")


def refuse_radio_flags(vision_tower: str, args: Any) -> None:
    """Raise ValueError where LLaVA's arguments ask a teacher for what only RADIO towers do."""
    given = [f"--radio_{name}" for name in FLAGS if getattr(args, f"radio_{name}", None)]
    if getattr(args, "unfreeze_mm_vision_tower", False):
        given.append("--unfreeze_mm_vision_tower")
    if given:
        raise ValueError(
            f"the vision tower {vision_tower} is a frozen teacher at its own resolution: leave out "
            f"{', '.join(given)}, or take a RADIO model"
        )
    select = getattr(args, "mm_vision_select_feature", "patch") or "patch"
    if select != "patch":
        raise ValueError(f"mm_vision_select_feature {select!r}: a teacher gives patches; 'patch'")


def _recorded_shape(vision_tower: str, args: Any) -> TowerShape | None:
    """The sizes that a model's config has for this teacher."""
    values = dict(getattr(args, RECORDED_TEACHER, None) or {})
    if values.pop("model", None) != vision_tower:
        return None
    return from_mapping(TowerShape, values, RECORDED_TEACHER)


def _shape_of(teacher: Teacher) -> TowerShape:
    spec = teacher.spec
    return TowerShape(
        hidden_size=spec.feature_dim, patch_size=spec.patch_size, image_size=spec.input_size
    )
