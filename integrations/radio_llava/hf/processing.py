"""Images and texts for a transformers LLaVA that has a RADIO tower."""

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

from radio_core.models.conditioner import CLIP_MEAN
from radio_llava.hf.vocabulary import space_before
from radio_llava.images import RadioImageProcessor, token_count
from radio_llava.tower_config import Aspect


class RadioImagesKwargs(ImagesKwargs, total=False):
    """What a call of the processor may say about its images, see `RadioLlavaImageProcessor`."""

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
        """Prepare images of any sizes.

        Args:
            images: PIL images, arrays or tensors, paths or URLs; one, a list, or a list of lists.
            return_tensors: kind of the result, "pt" or "np"; None for torch.
            resolution: another one than the processor's own.
            aspect: another one than the processor's own.
            **_: options of other image processors, which have no meaning here.

        Returns:
            pixel_values, float32 [B, 3, H, W] in [0, 1], black beyond each image; and image_sizes,
            int64 [B, 2], the height and width of each in pixels, multiples of `step`.
        """
        red, green, blue = self.mean
        fitting = RadioImageProcessor(
            resolution or self.resolution,
            self.step,
            aspect or self.aspect,
            mean=(red, green, blue),
        )
        flat: Any = make_flat_list_of_images(self.fetch_images(images))
        pixels = [pil_to_tensor(fitting.fit(_as_pil(image))).float() / 255 for image in flat]
        sizes = torch.tensor([tensor.shape[-2:] for tensor in pixels])
        data = {"pixel_values": _padded(pixels), "image_sizes": sizes}
        return BatchFeature(data, tensor_type=return_tensors or "pt")

    def token_count(self, height: int, width: int, patch_size: int) -> int:
        """Number of image tokens that an image of `height` x `width` pixels becomes."""
        if self.aspect != "native":
            height = width = 1
        return token_count(height, width, self.resolution, patch_size, self.step)


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
        image_token: str = "<image>",
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
        """Refuse texts whose `<image>` are not as many as the images.

        Raises:
            ValueError: also for whatever `LlavaProcessor` refuses.
        """
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
        counts = [self.image_processor.token_count(h, w, self.patch_size) for h, w in image_sizes]
        return MultiModalData(num_image_tokens=counts, num_image_patches=[1] * len(counts))


def _as_pil(image: Any) -> Image.Image:
    """A PIL image of whatever kind of image transformers takes."""
    if isinstance(image, Image.Image):
        return image
    converted: Image.Image = to_pil_image(image)
    return converted


def _padded(images: Sequence[Tensor]) -> Tensor:
    """Images [3, h, w] as one batch [B, 3, H, W], with zeros at the right and the bottom."""
    height = max(image.shape[-2] for image in images)
    width = max(image.shape[-1] for image in images)
    return torch.stack(
        [F.pad(i, (0, width - i.shape[-1], 0, height - i.shape[-2])) for i in images]
    )
