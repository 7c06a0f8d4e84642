"""A RADIO model with the interface of LLaVA's vision towers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from radio_core.models.radio import RadioModel
from radio_core.zoo.load import load_model
from radio_llava.features import freeze_unused, tower_features
from radio_llava.images import RadioImageProcessor
from radio_llava.shape import TowerShape, shape_before_loading, shape_of
from radio_llava.tower_config import TowerConfig, tower_config_of
from radio_llava.tower_interface import LlavaTower, device_of, plain_tensors


class RadioVisionTower(LlavaTower):
    """RADIO in the place of LLaVA's CLIP: images of any size in, their tokens out.

    Args:
        vision_tower: the RADIO model, as `radio_core.load_model` takes it.
        args: LLaVA's model arguments, or the config of a LLaVA model; see `tower_config_of`. With
            `unfreeze_mm_vision_tower` the weights are trained too.
        delay_load: leave the weights for `load_model`. The parameters of a tower that is trained
            exist at once all the same: they are in the LLaVA model's own files.

    Attributes:
        tower_config: the features and the image size.
        radio: the model, once loaded.
        trainable: whether the weights are to be trained, or have been.

    Raises:
        ValueError: a choice that makes no sense, an unknown model.
    """

    radio: RadioModel

    def __init__(self, vision_tower: str, args: Any, delay_load: bool = False) -> None:
        super().__init__(vision_tower)
        self.tower_config = tower_config_of(vision_tower, args)
        select = getattr(args, "mm_vision_select_feature", "patch") or "patch"
        if select != "patch":
            raise ValueError(
                f"mm_vision_select_feature {select!r}: a RADIO tower gives patches; use 'patch'"
            )
        self.trainable = bool(getattr(args, "unfreeze_mm_vision_tower", False))
        self._kept: dict[str, Tensor] = {}
        if self.trainable:
            self._build()
            self.unfreeze()
            # transformers gives what is not in its files no values, or random ones
            self._kept = {
                name: tensor.detach().clone()
                for name, tensor in (*self.radio.named_buffers(), *self.radio.named_parameters())
                if not tensor.requires_grad
            }
        if not delay_load:
            self.load_model()

    def load_model(self, device_map: Any = None) -> None:
        """Load the weights, in eval mode and (unless they are to be trained) frozen.

        Args:
            device_map: as transformers takes it; the tower goes to one device as a whole.

        Raises:
            ValueError: unknown model, or features that it has not; the known ones are listed.
        """
        if self.is_loaded:
            return
        if self.trainable:
            self._restore()
        else:
            self._build()
        shape_of(self.radio, self.tower_config)  # refuses unknown adaptors and layers now
        self.image_processor = RadioImageProcessor(
            self.tower_config.resolution,
            self.radio.min_resolution_step,
            self.tower_config.aspect,
            self.radio.config.mean,
            self.radio.config.std,
        )
        self.is_loaded = True
        device = device_of(device_map)
        if device is not None:
            self.to(device)

    def choose(self, config: TowerConfig) -> None:
        """Take other features or another image size of the same model, from `load_model` on."""
        assert config.model == self.tower_config.model
        self.tower_config = config
        self.is_loaded = False

    def unfreeze(self) -> None:
        """Let those weights be trained that the chosen features depend on."""
        with plain_tensors():
            self.radio.requires_grad_(True)
            freeze_unused(self.radio, self.tower_config)

    def _build(self) -> None:
        """Read the model, as it was released."""
        with plain_tensors():
            self.radio = load_model(self.tower_config.model, dtype=torch.float32)
        self.radio.requires_grad_(False)

    def _restore(self) -> None:
        """Give what training never changes its released values, beside the trained weights."""
        first = next(self.radio.backbone.parameters())
        with plain_tensors():
            for name, value in self._kept.items():
                path, _, leaf = name.rpartition(".")
                owner = self.radio.get_submodule(path)
                cast = value.is_floating_point() and not name.startswith("conditioner.")
                placed = value.to(first.device, first.dtype if cast else value.dtype)
                if isinstance(getattr(owner, leaf), nn.Parameter):
                    placed = nn.Parameter(placed, requires_grad=False)
                setattr(owner, leaf, placed)
        self._kept = {}

    @property
    def frozen(self) -> bool:
        """Whether no weight of the tower is to be trained."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    def forward(self, images: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Encode images; no gradients are kept where the tower is frozen.

        Args:
            images: [B, 3, H, W], or several [3, H, W] of any sizes, from `image_processor`.

        Returns:
            [B, N, C] for a tensor, else a list of [N_i, C]; in the dtype of the images.

        Raises:
            ValueError: as `tower_features`.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            placed = [image.to(self.device) for image in images]
            features = tower_features(self.radio, placed, self.tower_config)
            results = [x.to(image.dtype) for x, image in zip(features, images, strict=True)]
        return torch.stack(results) if isinstance(images, Tensor) else results

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the backbone computes."""
        return next(self.radio.backbone.parameters()).dtype if self.is_loaded else torch.float32

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.radio.parameters()).device if self.is_loaded else torch.device("cpu")

    @property
    def config(self) -> TowerShape:
        """The tower's sizes. Weights are loaded only where nothing else tells them."""
        known = None if self.is_loaded else shape_before_loading(self.tower_config)
        if known is not None:
            return known
        self.load_model()
        return shape_of(self.radio, self.tower_config)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RadioVisionTower":
        """Move and cast; the normalisation of the pixels keeps its float32."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.is_loaded or self.trainable:
            self.radio.conditioner.float()
        return self
