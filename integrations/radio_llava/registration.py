"""RADIO and other models among LLaVA's towers: names, images of any sizes, counted truncation."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from radio_core.config_file import to_mapping
from radio_core.teachers import is_teacher
from radio_llava import compat
from radio_llava.compat import require_llava, wrap_once
from radio_llava.features import RECORDED, tower_config_of
from radio_llava.tower import VisionTower, check_flags, is_radio_tower

IMAGE_TOKEN_INDEX = -200
"""LLaVA's number for `<image>` among the token ids."""


def register() -> None:
    """Let LLaVA take RADIO models and teachers as towers, in training and `load_pretrained_model`.

    Other towers work as before. Call it before a model is built; again is harmless.

    Raises:
        ImportError: LLaVA is not installed, or transformers is too old.
    """
    compat.apply()
    arch = require_llava("llava.model.llava_arch")
    builder = require_llava("llava.model.multimodal_encoder.builder")
    for module in (builder, arch):
        wrap_once(module, "build_vision_tower", _with_our_towers)
    wrap_once(arch.LlavaMetaModel, "initialize_vision_modules", _recording_the_tower)
    wrap_once(arch.LlavaMetaForCausalLM, "encode_images", _one_by_one)
    wrap_once(arch.LlavaMetaForCausalLM, "prepare_inputs_labels_for_multimodal", _with_mixed_sizes)
    for model in compat.language_models():
        if "generate" in vars(model):
            wrap_once(model, "generate", _with_images_in_place)


class ImageList(list[Tensor]):
    """Images [3, H, W] of any sizes.

    LLaVA stacks a plain list; one that has a batch's dimensions goes to `encode_images` as it is.
    """

    ndim = 4
    counts: Sequence[int] = ()


def _with_our_towers(build: Any, vision_tower_cfg: Any, **kwargs: Any) -> Any:
    """`build_vision_tower` that knows our names too."""
    name = getattr(vision_tower_cfg, "mm_vision_tower", None)
    name = name or getattr(vision_tower_cfg, "vision_tower", None)
    if name is None or not (is_teacher(name) or is_radio_tower(name)):
        try:
            return build(vision_tower_cfg, **kwargs)
        except ValueError as error:
            if name is None or "vision tower" not in str(error):
                raise
    return VisionTower(name, vision_tower_cfg, **kwargs)


def _recording_the_tower(initialize: Any, self: Any, model_args: Any, fsdp: Any = None) -> None:
    """`initialize_vision_modules` that writes the tower and its choices into the config."""
    name = model_args.vision_tower
    unfreeze = bool(getattr(model_args, "unfreeze_mm_vision_tower", False))
    if unfreeze and model_args.tune_mm_mlp_adapter:
        raise ValueError(
            "--tune_mm_mlp_adapter trains the projector alone: leave "
            "--unfreeze_mm_vision_tower out, or train in a second stage"
        )
    if unfreeze and fsdp:  # LLaVA hides the tower from it in a list
        raise ValueError(
            "--fsdp would neither train nor save the vision tower: leave it out (deepspeed "
            "shards too), or leave --unfreeze_mm_vision_tower out"
        )
    if name is not None:
        check_flags(name, model_args)
    old = self.get_vision_tower()
    if isinstance(old, VisionTower):
        if name != old.vision_tower_name or (unfreeze and not old.trainable):
            del self.vision_tower  # LLaVA builds the one that is asked for
        elif old.is_radio:
            setattr(model_args, RECORDED, getattr(self.config, RECORDED, None))
            if (wanted := tower_config_of(name, model_args)) != old.tower_config:
                old.choose(wanted)
    initialize(self, model_args, fsdp)
    tower = self.get_vision_tower()
    if not isinstance(tower, VisionTower):
        return
    first = next((x for x in self.mm_projector.parameters() if x.ndim == 2), None)
    if first is not None and first.numel() and first.shape[1] != tower.hidden_size:
        raise ValueError(
            f"the model's projector takes features of width {first.shape[1]}, but those of "
            f"{name} as chosen have {tower.hidden_size}: keep the tower and the features that "
            "the projector was trained with"
        )
    if unfreeze:
        tower.unfreeze()
    else:
        tower.requires_grad_(False)
    tower.keeps_float32 = unfreeze
    setattr(self.config, RECORDED, to_mapping(tower.tower_config))
    self.config.unfreeze_mm_vision_tower = tower.trainable


def _one_by_one(encode: Any, self: Any, images: Any) -> Any:
    """`encode_images` that projects the tokens of every image of an `ImageList` by themselves."""
    if not isinstance(images, ImageList):
        return encode(self, images)
    features = self.get_model().get_vision_tower()(images)
    projector = self.get_model().mm_projector
    projected = [projector(tokens[None])[0] for tokens in features]
    images.counts = [len(tokens) for tokens in projected]
    return projected


def _with_mixed_sizes(
    prepare: Any,
    self: Any,
    input_ids: Any,
    position_ids: Any,
    attention_mask: Any,
    past_key_values: Any,
    labels: Any,
    images: Any,
    image_sizes: Any = None,
) -> Any:
    """`prepare_inputs_labels_for_multimodal` for images of any sizes, with clear errors."""

    def original(images: Any, mask: Any = attention_mask) -> Any:
        texts = (input_ids, position_ids, mask, past_key_values, labels)
        return prepare(self, *texts, images, image_sizes)

    if input_ids is None or input_ids.shape[1] == 1:
        return original(images)
    if images is None:
        refuse_lost_images(input_ids)
    if images is None or not isinstance(self.get_vision_tower(), VisionTower):
        return original(images)
    marks = input_ids == IMAGE_TOKEN_INDEX
    if attention_mask is not None:
        marks = marks & attention_mask.bool()
    tokens: list[int] = marks.sum(dim=1).tolist()
    listed = _matched(images, tokens, self.get_vision_tower())
    if attention_mask is None and len(input_ids) > 1:  # images of other sizes bring padding
        attention_mask = torch.ones_like(input_ids, dtype=torch.bool)
    results = original(listed, attention_mask)
    _count_truncation(self, input_ids, attention_mask, tokens, listed, results[4])
    return results


def _with_images_in_place(
    generate: Any, self: Any, inputs: Any = None, images: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """`generate` for batches of mixed sizes, that refuses a prompt with `<image>` but no image."""
    if images is None and isinstance(inputs, Tensor):
        refuse_lost_images(inputs)
    if not isinstance(self.get_vision_tower(), VisionTower):
        return generate(self, inputs, images, *args, **kwargs)
    with padded_left(self.config):
        return generate(self, inputs, images, *args, **kwargs)


@contextmanager
def padded_left(config: Any) -> Iterator[None]:
    """LLaVA pads what it puts together at the right, as in training; answers follow at the end."""
    before = getattr(config, "tokenizer_padding_side", "right")
    config.tokenizer_padding_side = "left"
    try:
        yield
    finally:
        config.tokenizer_padding_side = before


def refuse_lost_images(input_ids: Tensor) -> None:
    """Raise ValueError where token ids [B, L] have `<image>` though no images are given."""
    count = int((input_ids == IMAGE_TOKEN_INDEX).sum())
    if count:
        raise ValueError(f"the text has <image> {count} time(s), but no image was given")


def _matched(images: Any, tokens: Sequence[int], tower: VisionTower) -> Any:
    """Images in the order of their `<image>`, with an empty one for each text without any.

    LLaVA uses up one image for a text without `<image>`; its own data sets give a black one.
    """
    tiled = images.ndim == 5 if isinstance(images, Tensor) else any(x.ndim == 4 for x in images)
    listed = list(images)
    if len(listed) == sum(tokens) and not tiled:
        step = tower.image_processor.step
        empty = torch.zeros(3, step, step, dtype=listed[0].dtype) if listed else None
        remaining = iter(listed)
        listed = [
            empty if empty_sample else next(remaining)
            for count in tokens
            for empty_sample in ([False] * count or [True])
        ]
    if len(listed) != sum(max(1, count) for count in tokens):
        raise ValueError(
            f"{len(listed)} image(s) were given for {sum(tokens)} <image> in a batch of "
            f"{len(tokens)} text(s): give one image for each <image>, in their order"
        )
    position = 0
    for sample, count in enumerate(tokens):
        if count == 0 and bool(listed[position].any()):
            raise ValueError(f"text {sample} of the batch has an image, but no <image> to put it")
        position += max(1, count)
    return images if tiled else ImageList(listed)


class TruncationWarning(UserWarning):
    """Text or images were cut off because a sequence was too long."""


class Truncation:
    """How many sequences a model has cut off so far, and at least how many tokens they lost."""

    def __init__(self) -> None:
        self.sequences = 0
        self.tokens = 0
        self._told = 0

    def add(self, limit: int, lengths: Sequence[int]) -> None:
        """Count sequences of these lengths in tokens, cut off after `limit`.

        A `TruncationWarning` comes with the first, and each time their number has doubled.
        """
        longer = [length for length in lengths if length > limit]
        self.sequences += len(longer)
        self.tokens += sum(longer) - limit * len(longer)
        if longer and self.sequences >= 2 * self._told:
            self._told = self.sequences
            warnings.warn(
                f"{self.sequences} sequence(s) so far were cut off after {limit} tokens, and lost "
                f"{self.tokens} or more: raise --model_max_length, or lower --radio_resolution",
                TruncationWarning,
                stacklevel=2,
            )


def _count_truncation(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    tokens: Sequence[int],
    images: Any,
    embeds: Tensor | None,
) -> None:
    """Count what LLaVA has cut off at `tokenizer_model_max_length`."""
    limit = getattr(model.config, "tokenizer_model_max_length", None)
    if limit is None or embeds is None or embeds.shape[1] < limit:
        return
    if not hasattr(model, "radio_truncation"):
        model.radio_truncation = Truncation()
    counter: Truncation = model.radio_truncation
    if not isinstance(images, ImageList):  # tiles: how they are merged is LLaVA's own affair
        counter.add(limit, [limit + 1])
        return
    counts = iter(images.counts)
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    texts = mask.bool().sum(dim=1).tolist()
    lengths = []
    for text, count in zip(texts, tokens, strict=True):
        of_images = sum(next(counts) for _ in range(max(1, count)))
        lengths.append(text - count + (of_images if count else 0))
    counter.add(limit, lengths)
