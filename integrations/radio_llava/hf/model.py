"""RADIO as the vision tower of transformers' `LlavaForConditionalGeneration`."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from radio_core.config_file import from_mapping, to_mapping
from radio_core.models.config import RadioConfig
from radio_core.models.normalizers import InputConditioner
from radio_core.models.radio import RadioModel
from radio_llava.compat import drop_unused_sampling
from radio_llava.features import TowerConfig, feature_dim, freeze_unused, token_side, tower_features
from radio_llava.hf import check_transformers
from radio_llava.hf.processing import (
    RadioLlavaImageProcessor,
    RadioLlavaProcessor,
    grown,
    image_token_id,
)


class RadioVisionConfig(PretrainedConfig):
    """A RADIO model and the choice of its features, complete: no other file is needed.

    Make one with `of`; the constructor is what transformers fills from a config.json.

    Args:
        radio: `RadioConfig` as a mapping, without the adaptors that the tower does not use.
        tower: `TowerConfig` as a mapping. Its `model` only tells people where the weights came
            from; its `resolution` and `aspect` are what the processor is made with.
        hidden_size: width of the features.
        patch_size: pixels of one image token.
        **kwargs: what every transformers configuration has.
    """

    model_type = "radio_llava_tower"

    def __init__(
        self,
        radio: Mapping[str, Any] | None = None,
        tower: Mapping[str, Any] | None = None,
        hidden_size: int = 0,
        patch_size: int = 0,
        **kwargs: Any,
    ) -> None:
        self.radio = dict(radio or {})
        self.tower = dict(tower or {})
        self.hidden_size = hidden_size
        self.patch_size = patch_size
        super().__init__(**kwargs)

    @classmethod
    def of(cls, radio: RadioModel, tower: TowerConfig) -> "RadioVisionConfig":
        """The configuration of a tower made of `radio`."""
        hidden_size = feature_dim(radio, tower)
        used = tuple(spec for spec in radio.config.adaptors if spec.name == tower.adaptor)
        return cls(
            radio=to_mapping(dataclasses.replace(radio.config, adaptors=used)),
            tower=to_mapping(tower),
            hidden_size=hidden_size,
            patch_size=token_side(radio, tower),
        )

    def parts(self) -> tuple[RadioConfig, TowerConfig]:
        """The fields `radio` and `tower` as dataclasses."""
        if not self.radio or not self.tower:  # transformers makes such, to find out the defaults
            raise ValueError(
                "this RadioVisionConfig describes no model: make it with "
                "RadioVisionConfig.of(load_model(...), TowerConfig(...))"
            )
        radio = from_mapping(RadioConfig, self.radio, "vision_config.radio")
        return radio, from_mapping(TowerConfig, self.tower, "vision_config.tower")


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
        radio, self.tower = config.parts()
        self.radio = RadioModel(radio).eval()
        self.patch_size = config.patch_size
        if (width := feature_dim(self.radio, self.tower)) != config.hidden_size:
            raise ValueError(
                f"vision_config.hidden_size is {config.hidden_size}, but the features that its "
                f"tower chooses have width {width}"
            )
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def of(cls, radio: RadioModel, tower: TowerConfig) -> "RadioVisionModel":
        """A tower with the weights of `radio`, copied."""
        model = cls(RadioVisionConfig.of(radio, tower))
        wanted = model.radio.state_dict()
        model.radio.load_state_dict({name: radio.state_dict()[name] for name in wanted})
        model.freeze_unused()
        model.train(False)
        return model

    def freeze_unused(self) -> None:
        """See `radio_llava.features`."""
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
        """The features of images [B, 3, H, W], RGB in [0, 1].

        `image_sizes` [B, 2] are height and width in pixels of the part of each image (from the top
        left) that is not padding. `last_hidden_state` is [B, N, C], with `image_sizes` [1, sum of
        all N, C].
        """
        if not (output_hidden_states is None or isinstance(output_hidden_states, bool)):
            layers = output_hidden_states
            if any(x not in (-1, 0) for x in ([layers] if isinstance(layers, int) else layers)):
                raise ValueError(
                    f"vision_feature_layer {layers}: a RADIO tower has the hidden state -1 only; "
                    "set vision_feature_layer=-1 and choose the blocks with TowerConfig(layers=...)"
                )
        images = pixel_values if image_sizes is None else _cropped(pixel_values, image_sizes)
        features = tower_features(self.radio, images, self.tower)
        joined = torch.stack(features) if image_sizes is None else torch.cat(features)[None]
        hidden = joined.to(self.dtype)
        output = BaseModelOutputWithPooling(last_hidden_state=hidden, hidden_states=(hidden,))
        return output if return_dict in (None, True) else output.to_tuple()


def _cropped(pixel_values: Tensor, image_sizes: Tensor | Sequence[Sequence[int]]) -> list[Tensor]:
    sizes: list[list[int]] = torch.as_tensor(image_sizes).tolist()
    height, width = pixel_values.shape[-2:]
    if len(sizes) != len(pixel_values):
        raise ValueError(f"{len(pixel_values)} images, but {len(sizes)} image_sizes")
    if any(h > height or w > width for h, w in sizes):
        raise ValueError(f"image_sizes {sizes} must lie within the images of {height}x{width}")
    return [image[:, :h, :w] for image, (h, w) in zip(pixel_values, sizes, strict=True)]


def register() -> None:
    """Make RADIO's tower and processors known to transformers' Auto classes.

    Once in every process that loads such a model through them; more often does no harm.
    """
    check_transformers()
    AutoConfig.register(RadioVisionConfig.model_type, RadioVisionConfig, exist_ok=True)
    AutoModel.register(RadioVisionConfig, RadioVisionModel, exist_ok=True)
    AutoImageProcessor.register(
        RadioVisionConfig,
        image_processor_classes={
            "torchvision": RadioLlavaImageProcessor,
            "pil": RadioLlavaImageProcessor,
        },
        exist_ok=True,
    )
    AutoProcessor.register(RadioVisionConfig, RadioLlavaProcessor, exist_ok=True)


def build_llava(
    radio: RadioModel, tower: TowerConfig, language_model: PreTrainedModel, tokenizer: Any
) -> LlavaForConditionalGeneration:
    """A LLaVA with a fresh projector between a RADIO model and a language model.

    RADIO's weights are copied; the causal language model is taken over, and its embeddings grow
    when the tokenizer, which gets the token "<image>", has more tokens. The model is in eval mode,
    in the language model's dtype and on its device; the weights that the chosen features depend on
    take gradients.
    """
    register()
    token_id = image_token_id(tokenizer)
    words: Any = language_model.get_input_embeddings()
    old, size = words.num_embeddings, len(tokenizer)
    if old < size:  # room for new tokens
        language_model.resize_token_embeddings(size, mean_resizing=False)
        ends: Any = (language_model.get_input_embeddings(), language_model.get_output_embeddings())
        with torch.no_grad():
            for module in ends:
                module.weight.copy_(grown(module.weight[:old], size))
    vision = RadioVisionModel.of(radio, tower)
    vision_config = RadioVisionConfig.of(radio, tower)
    config = llava_config(vision_config, language_model.config, token_id)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model.model.vision_tower = vision
    model.model.multi_modal_projector = LlavaMultiModalProjector(config)
    model.model.language_model = language_model.base_model
    model.lm_head = language_model.get_output_embeddings()
    if language_model.generation_config is not None:
        model.generation_config = language_model.generation_config
        drop_unused_sampling(model.generation_config)
    nn.Module.to(model, language_model.device, language_model.dtype)
    model.train(False)
    return model


def llava_config(
    vision: RadioVisionConfig, text: PretrainedConfig, token_id: int, **options: Any
) -> LlavaConfig:
    """The `LlavaConfig` of a tower, a language model and the token of an image patch."""
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        **options,
    )


def build_processor(
    vision: RadioVisionConfig,
    tokenizer: Any,
    chat_template: str | None = None,
    space_after_image: bool = False,
) -> RadioLlavaProcessor:
    """The processor that fits a tower's `vision_config`; the tokenizer gets the token "<image>"."""
    register()
    image_token_id(tokenizer)
    radio, tower = vision.parts()
    images = RadioLlavaImageProcessor(
        resolution=tower.resolution,
        step=radio.backbone.resolution_step,
        aspect=tower.aspect,
        mean=radio.mean,
    )
    return RadioLlavaProcessor(
        images,
        tokenizer,
        patch_size=vision.patch_size,
        chat_template=chat_template,
        space_after_image=space_after_image,
    )


def load_llava(
    directory: str | Path, **options: Any
) -> tuple[LlavaForConditionalGeneration, RadioLlavaProcessor]:
    """A saved model and its processor, of a directory or hub id.

    All weights take gradients. To train the tower in several processes, call the `freeze_unused` of
    `model.model.vision_tower` first. `options` go to the model's `from_pretrained`.
    """
    register()
    model = LlavaForConditionalGeneration.from_pretrained(str(directory), **options)
    processor: RadioLlavaProcessor = AutoProcessor.from_pretrained(str(directory))
    return model, processor
