"""RADIO as the vision tower of transformers' `LlavaForConditionalGeneration`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from radio_core.models.conditioner import InputConditioner
from radio_core.models.radio import RadioModel
from radio_llava.features import feature_dim, freeze_unused, tower_features
from radio_llava.hf.configuration import RadioVisionConfig
from radio_llava.tower_config import TowerConfig


class RadioVisionModel(PreTrainedModel):
    """The features of a RADIO model, as transformers' LLaVA asks for them.

    Its only hidden state is the features that the configuration chooses, without class tokens and
    registers. So LLaVA's own `vision_feature_layer` must be -1 and its
    `vision_feature_select_strategy` "full"; other layers are chosen by `TowerConfig.layers`.

    RADIO stays in eval mode whatever `train` says: its training mode crops the positions at
    random, which is for distillation only. Gradients reach it unless its parameters are frozen.

    Attributes:
        radio: the model.
        patch_size: pixels of one image token.
    """

    config_class = RadioVisionConfig
    main_input_name = "pixel_values"
    input_modalities = "image"
    _no_split_modules = ["Block"]  # noqa: RUF012
    # RADIO attends in its own way; whatever is asked of the language model is fine here.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: RadioVisionConfig) -> None:
        super().__init__(config)
        self.radio = RadioModel(config.radio_config()).eval()
        self.tower = config.tower_config()
        self.patch_size = config.patch_size
        if (width := feature_dim(self.radio, self.tower)) != config.hidden_size:
            raise ValueError(
                f"vision_config.hidden_size is {config.hidden_size}, but the features that its "
                f"tower chooses have width {width}"
            )
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def of(cls, radio: RadioModel, tower: TowerConfig) -> "RadioVisionModel":
        """A tower with the weights of `radio`, copied.

        Raises:
            ValueError: the model does not have the layers or the adaptor that `tower` names.
        """
        model = cls(RadioVisionConfig.of(radio, tower))
        wanted = model.radio.state_dict()
        model.radio.load_state_dict({name: radio.state_dict()[name] for name in wanted})
        model.freeze_unused()
        model.train(False)
        return model

    def freeze_unused(self) -> None:
        """Freeze what the chosen features do not depend on, see `radio_llava.features`."""
        freeze_unused(self.radio, self.tower)

    def train(self, mode: bool = True) -> "RadioVisionModel":
        """Set the mode of everything but RADIO."""
        super().train(mode)
        self.radio.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """There are none: no gradients have to be let in at the pixels."""
        raise NotImplementedError

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, InputConditioner):  # it is in no file, and never coarser than this
            config, device = self.radio.config, module.norm_mean.device
            for name, values in (("norm_mean", config.mean), ("norm_std", config.std)):
                wide = torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)
                setattr(module, name, wide)

    def forward(
        self,
        pixel_values: Tensor,
        image_sizes: Tensor | Sequence[Sequence[int]] | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        return_dict: bool | None = True,
        **_: Any,
    ) -> Any:
        """The features of a batch of images.

        Args:
            pixel_values: [B, 3, H, W], RGB in [0, 1].
            image_sizes: [B, 2], height and width in pixels of the part of each image (from the
                top left) that is not padding, multiples of the model's step.
            output_hidden_states: whether, or which, hidden states are wanted; there is but one.
            return_dict: False for a tuple.
            **_: what transformers hands to every submodule (attention options and so on).

        Returns:
            `BaseModelOutputWithPooling` with `last_hidden_state` [B, N, C]; with `image_sizes`
            [1, sum of all N, C], image after image.

        Raises:
            ValueError: another hidden state than the last, sizes that do not fit the images, or
                features that are too large for float16.
        """
        _check_layers(output_hidden_states)
        images = pixel_values if image_sizes is None else _cropped(pixel_values, image_sizes)
        features = tower_features(self.radio, images, self.tower)
        joined = torch.stack(features) if image_sizes is None else torch.cat(features)[None]
        hidden = joined.to(self.dtype)
        output = BaseModelOutputWithPooling(last_hidden_state=hidden, hidden_states=(hidden,))
        return output if return_dict in (None, True) else output.to_tuple()


def _check_layers(wanted: bool | int | Sequence[int] | None) -> None:
    """Raise unless the hidden states asked for are the only one that there is."""
    if wanted is None or isinstance(wanted, bool):
        return
    layers = [wanted] if isinstance(wanted, int) else list(wanted)
    if any(layer not in (-1, 0) for layer in layers):
        raise ValueError(
            f"vision_feature_layer {wanted}: a RADIO tower has the hidden state -1 only; set "
            "vision_feature_layer=-1 and choose the blocks with TowerConfig(layers=...)"
        )


def _cropped(pixel_values: Tensor, image_sizes: Tensor | Sequence[Sequence[int]]) -> list[Tensor]:
    """The images [3, h, w] out of the padded batch [B, 3, H, W]."""
    sizes: list[list[int]] = torch.as_tensor(image_sizes).tolist()
    height, width = pixel_values.shape[-2:]
    if len(sizes) != len(pixel_values):
        raise ValueError(f"{len(pixel_values)} images, but {len(sizes)} image_sizes")
    if any(h > height or w > width for h, w in sizes):
        raise ValueError(f"image_sizes {sizes} must lie within the images of {height}x{width}")
    return [image[:, :h, :w] for image, (h, w) in zip(pixel_values, sizes, strict=True)]
