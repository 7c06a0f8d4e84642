"""A transformers LLaVA out of its parts: a RADIO model, a language model and a tokenizer."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
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
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from radio_core.models.radio import RadioModel
from radio_llava.compat import drop_unused_sampling
from radio_llava.hf import check_transformers
from radio_llava.hf.configuration import RadioVisionConfig
from radio_llava.hf.modeling import RadioVisionModel
from radio_llava.hf.processing import RadioLlavaImageProcessor, RadioLlavaProcessor
from radio_llava.hf.vocabulary import grown, image_token_id
from radio_llava.tower_config import TowerConfig


def register() -> None:
    """Make RADIO's tower and processors known to transformers' Auto classes.

    Once in every process that loads such a model through them; more often does no harm.

    Raises:
        ImportError: transformers is too old for images of different sizes.
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
    radio: RadioModel,
    tower: TowerConfig,
    language_model: PreTrainedModel,
    tokenizer: Any,
) -> LlavaForConditionalGeneration:
    """A LLaVA with a fresh projector between a RADIO model and a language model.

    Args:
        radio: its weights are copied.
        tower: which features, and what images the processor will make.
        language_model: a causal language model, e.g. `LlamaForCausalLM`; it is taken over, not
            copied, and its embeddings grow when the tokenizer has more tokens.
        tokenizer: gets the token "<image>" if it does not have it.

    Returns:
        The model, in eval mode, in the language model's dtype and on its device. The tower's
        weights take gradients until `requires_grad_(False)`, except those that the chosen features
        do not depend on.

    Raises:
        ValueError: the model does not have the layers or the adaptor that `tower` names.
    """
    register()
    token_id = image_token_id(tokenizer)
    _grow(language_model, len(tokenizer))
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
    """The configuration of a LLaVA with a RADIO tower.

    Args:
        vision: of the tower.
        text: of the language model.
        token_id: of the token that stands for an image patch.
        **options: further fields of `LlavaConfig`.
    """
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
    """The processor that fits a tower.

    Args:
        vision: the model's `vision_config`.
        tokenizer: gets the token "<image>" if it does not have it.
        chat_template: Jinja template of the conversation.
        space_after_image: see `RadioLlavaProcessor`.
    """
    register()
    image_token_id(tokenizer)
    tower, radio = vision.tower_config(), vision.radio_config()
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
    """A saved model and its processor.

    All weights take gradients. To train the tower in several processes, call the `freeze_unused`
    of `model.model.vision_tower` first.

    Args:
        directory: has what `save_pretrained` of both wrote; or a hub id.
        **options: go to the model's `from_pretrained` (dtype, device_map, ...).
    """
    register()
    model = LlavaForConditionalGeneration.from_pretrained(str(directory), **options)
    processor: RadioLlavaProcessor = AutoProcessor.from_pretrained(str(directory))
    return model, processor


def _grow(language_model: PreTrainedModel, size: int) -> None:
    """Make room for new tokens, see `grown`."""
    embeddings: Any = language_model.get_input_embeddings()
    old = embeddings.num_embeddings
    if old >= size:
        return
    language_model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        for module in (
            language_model.get_input_embeddings(),
            language_model.get_output_embeddings(),
        ):
            weight: Any = module.weight
            weight.copy_(grown(weight[:old], size))
