"""Images, tokens and prompts for a transformers LLaVA that has a RADIO tower."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor
from transformers import BatchFeature, LlavaProcessor
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_transforms import to_pil_image
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import ImagesKwargs, MultiModalData

from radio_core.models.normalizers import CLIP_MEAN
from radio_llava.images import IMAGE, Aspect, RadioImageProcessor, token_count

# Images come first in their message, each on a line of its own, unless a text names their places.
# The answers are marked as what is to be learnt.
_V1 = """\
{%- if messages[0]['role'] != 'system' -%}
{{ "A chat between a curious user and an artificial intelligence assistant. \
The assistant gives helpful, detailed, and polite answers to the user's questions. " }}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] != 'system' -%}{{ message['role'] | upper + ': ' }}{%- endif -%}
{%- if message['content'] is string -%}{%- set text = message['content'] -%}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}{{ 'IMAGE\\n' }}{%- endfor -%}
{%- set text = message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') \
| join(' ') -%}
{%- endif -%}
{%- set text = text | replace('<image>', 'IMAGE') -%}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{ text + eos_token }}{%- endgeneration -%}
{%- else -%}{{ text + ' ' }}{%- endif -%}
{%- endfor -%}
{{ 'ASSISTANT:' if add_generation_prompt else '' }}"""

MARKED_IMAGE = "<im_start><image><im_end>"
"""An image for models that were trained with LLaVA's `--mm_use_im_start_end True`."""


def llava_v1(image: str = IMAGE) -> str:
    """The template that makes of messages what LLaVA's conversation "v1" (Vicuna) makes of them."""
    return _V1.replace("IMAGE", image)


LLAVA_V1 = llava_v1()
"""The template of LLaVA-1.5."""


class RadioImagesKwargs(ImagesKwargs, total=False):
    """What a call may say about its images besides, see `RadioLlavaImageProcessor`."""

    resolution: int
    aspect: str


class RadioLlavaImageProcessor(BaseImageProcessor):
    """Resizes images by their long edge and pads them into one batch, with their sizes.

    Args:
        resolution: long edge in pixels.
        step: sides are padded to multiples of this many pixels.
        aspect: see `TowerConfig`.
        mean: the model's mean, RGB in [0, 1]; the colour of the padding that the model sees.
        **kwargs: what every transformers image processor has.
    """

    model_input_names = ["pixel_values", "image_sizes"]  # noqa: RUF012
    valid_kwargs = RadioImagesKwargs

    def __init__(
        self,
        resolution: int = 432,
        step: int = 16,
        aspect: Aspect = "native",
        mean: Sequence[float] = CLIP_MEAN,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.resolution = resolution
        self.step = step
        self.aspect = aspect
        self.mean = list(mean)

    def preprocess(
        self,
        images: Any,
        return_tensors: str | None = None,
        resolution: int | None = None,
        aspect: Aspect | None = None,
        **_: Any,
    ) -> BatchFeature:
        """Prepare PIL images, arrays, tensors, paths or URLs; one, a list, or a list of lists.

        Returns pixel_values, float32 [B, 3, H, W] in [0, 1], black beyond each image; and
        image_sizes, int64 [B, 2], the height and width of each in pixels, multiples of `step`.
        """
        red, green, blue = self.mean
        size, shape = resolution or self.resolution, aspect or self.aspect
        fitting = RadioImageProcessor(size, self.step, shape, mean=(red, green, blue))
        flat: Any = make_flat_list_of_images(self.fetch_images(images))
        pictures = [x if isinstance(x, Image.Image) else to_pil_image(x) for x in flat]
        pixels = [pil_to_tensor(fitting.fit(picture)).float() / 255 for picture in pictures]
        sizes = torch.tensor([tensor.shape[-2:] for tensor in pixels])
        height, width = sizes.amax(dim=0).tolist()
        padded = [F.pad(i, (0, width - i.shape[-1], 0, height - i.shape[-2])) for i in pixels]
        data = {"pixel_values": torch.stack(padded), "image_sizes": sizes}
        return BatchFeature(data, tensor_type=return_tensors or "pt")


class RadioLlavaProcessor(LlavaProcessor):
    """`LlavaProcessor` for images of different sizes: each gets as many tokens as it has patches.

    Args:
        image_processor: a `RadioLlavaImageProcessor`.
        tokenizer: knows `image_token` as one token.
        patch_size: pixels of one image token.
        vision_feature_select_strategy: "full"; RADIO's tower has dropped its class tokens already.
        chat_template: Jinja template of the conversation.
        image_token: stands for an image in the text.
        space_after_image: put a space between an image and the text after it, unless it begins
            with one. LLaVA's own code tokenises that text by itself, and Llama's tokenizer begins
            every text with a space.
        **kwargs: what else a saved `LlavaProcessor` has.

    Raises:
        ValueError: no patch size, another strategy, or a tokenizer without the image token.
    """

    def __init__(
        self,
        image_processor: RadioLlavaImageProcessor | None = None,
        tokenizer: Any = None,
        patch_size: int | None = None,
        vision_feature_select_strategy: str = "full",
        chat_template: str | None = None,
        image_token: str = IMAGE,
        space_after_image: bool = False,
        **kwargs: Any,
    ) -> None:
        if vision_feature_select_strategy != "full":
            raise ValueError(
                f"vision_feature_select_strategy {vision_feature_select_strategy!r}: a RADIO "
                'tower needs "full"'
            )
        if not patch_size:
            raise ValueError("patch_size is needed: that of the model's vision_config")
        if len(tokenizer.encode(image_token, add_special_tokens=False)) != 1:
            raise ValueError(
                f"the tokenizer does not know {image_token!r} as one token: add it with "
                "tokenizer.add_tokens and resize the model's embeddings"
            )
        kwargs.pop("num_additional_image_tokens", None)  # a saved processor has it, as 0
        super().__init__(  # type: ignore[no-untyped-call]
            image_processor,
            tokenizer,
            patch_size=patch_size,
            vision_feature_select_strategy=vision_feature_select_strategy,
            chat_template=chat_template,
            image_token=image_token,
            **kwargs,
        )
        self.space_after_image = space_after_image

    def validate_inputs(
        self, images: Any = None, text: Any = None, *others: Any, **more: Any
    ) -> None:
        """Refuse texts whose `<image>` are not as many as the images."""
        marks = sum(part.count(self.image_token) for part in text or () if isinstance(part, str))
        flat: Any = [] if images is None else make_flat_list_of_images(images)
        given = len(flat)
        if text is not None and marks != given:
            raise ValueError(
                f"{given} image(s) were given for {marks} {self.image_token} in {len(text)} "
                f"text(s): give one image for each {self.image_token}, in their order"
            )
        super().validate_inputs(images, text, *others, **more)

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **_: Any) -> str:
        """The image tokens of the image `image_idx` of a processed batch."""
        height, width = (int(side) for side in image_inputs["image_sizes"][image_idx])
        tokens: str = self.image_token * (height // self.patch_size * (width // self.patch_size))
        return tokens

    def get_text_with_replacements(
        self, text: list[str], images_replacements: Sequence[str] = (), *others: Any, **more: Any
    ) -> tuple[list[str], list[dict[str, Any]]]:
        """Texts with the tokens of their images, and where they are; see `LlavaProcessor`."""
        tokens = list(images_replacements)
        if self.space_after_image and tokens:
            after = [part for sample in text for part in sample.split(self.image_token)[1:]]
            tokens = [t + space_before(part) for t, part in zip(tokens, after, strict=True)]
        return super().get_text_with_replacements(text, tokens, *others, **more)

    def _get_num_multimodal_tokens(
        self, image_sizes: Sequence[tuple[int, int]] | None = None, **_: Any
    ) -> MultiModalData:
        """How many tokens original images of these (height, width) become; serving asks this."""
        if image_sizes is None:
            return MultiModalData()
        images = self.image_processor
        sizes = [(h, w) if images.aspect == "native" else (1, 1) for h, w in image_sizes]
        limits = (images.resolution, self.patch_size, images.step)
        counts = [token_count(height, width, *limits) for height, width in sizes]
        return MultiModalData(num_image_tokens=counts, num_image_patches=[1] * len(counts))


def image_token_id(tokenizer: Any) -> int:
    """The id of "<image>", which is added to the tokenizer where it is missing."""
    if IMAGE not in tokenizer.get_vocab():
        tokenizer.add_tokens([IMAGE], special_tokens=True)
    token_id: int = tokenizer.convert_tokens_to_ids(IMAGE)
    return token_id


def grown(rows: Tensor, size: int) -> Tensor:
    """A matrix of one row per token [V, D], grown to `size` rows.

    A new row is the mean of the old ones: its token is never the likeliest before it is trained.
    """
    if size <= len(rows):
        return rows
    mean = rows.float().mean(dim=0, keepdim=True).to(rows.dtype)
    return torch.cat([rows, mean.expand(size - len(rows), -1)])


def space_before(text: str) -> str:
    """The space with which Llama's tokenizer begins a text, as far as the text has none."""
    return " " if text and not text.startswith(" ") else ""


def needs_space_after_image(tokenizer: Any, image: str = IMAGE) -> bool:
    """Whether `space_before` the text after an image gives the tokens that LLaVA's code makes.

    That code tokenises the text by itself; False where the text as it is gives those tokens too,
    ValueError where neither does.
    """
    mark = image.partition(IMAGE)[2]
    texts = [mark + text for text in ("\nAnswer", " Answer", "Answer")]
    alone = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    for needed in (False, True):
        spaced = [space_before(text) * needed + text for text in texts]
        ids = [tokenizer.encode(IMAGE + t, add_special_tokens=False) for t in spaced]
        if [after[1:] for after in ids] == alone:
            return needed
    raise ValueError(
        f"{type(tokenizer).__name__} tokenises a text after {IMAGE} unlike the text by "
        "itself: the model would see other tokens than in its training"
    )
