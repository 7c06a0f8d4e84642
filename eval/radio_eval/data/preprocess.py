"""Images brought to the size at which a model sees them."""

from dataclasses import dataclass
from typing import Any, Literal, cast

from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, functional

from radio_core.data.transforms import radio_resize, to_tensor
from radio_core.vision import CentreCrop, VisionModel

How = Literal["auto", "radio", "center-crop", "dinov2"]
_DINOV2 = CentreCrop(size=224, resize=256)


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How 8-bit RGB images are brought to a model's size.

    Attributes:
        size: side in pixels; of the shortest edge where images keep their shape.
        step: both sides become multiples of it.
        square: images become squares.
        crop: how, where it is done as another library does it; None for RADIO's resize.
    """

    size: int
    step: int
    square: bool
    crop: CentreCrop | None = None

    @classmethod
    def of(
        cls, model: VisionModel, image_size: int | None = None, how: How = "auto"
    ) -> "Preprocess":
        """The preprocessing of a model.

        Args:
            model: whose `spec` and `crop` count.
            image_size: side in pixels, rounded to the nearest multiple of the model's step; the
                model's own if None (224 with "dinov2", where it takes that).
            how: "radio" scales the shortest edge and keeps the shape, "center-crop" also cuts out
                the middle square as open_clip does, "dinov2" does so after a resize to 8/7 of the
                size. "auto" is what its own library does, "radio" for RADIO.

        Raises:
            ValueError: the model takes images of its own size only.
        """
        spec, crop = model.spec, model.crop
        size = spec.input_size if crop is None else crop.size
        if image_size is None and how == "dinov2" and not spec.square:
            image_size = _DINOV2.size
        if image_size is not None and spec.square and image_size != size:
            raise ValueError(
                f"model {spec.name!r} takes images of {size} pixels only, not {image_size}: leave "
                "out --image-size"
            )
        if image_size is not None and not spec.square:
            size = max(1, round(image_size / spec.step)) * spec.step
            crop = None if crop is None else crop.scaled(size)
        if how != "auto":
            crop = {
                "radio": None,
                "center-crop": CentreCrop(size=size, resize=size),
                "dinov2": _DINOV2.scaled(size),
            }[how]
        return cls(size=size, step=spec.step, square=spec.square, crop=crop)

    def __call__(self, image: Image.Image) -> Tensor:
        """An image for summaries.

        Returns:
            float32 [3, H, W] in [0, 1].
        """
        if self.crop is not None:
            resize = [self.crop.resize] * (2 if self.crop.squash else 1)
            resized = functional.resize(image, resize, InterpolationMode(self.crop.interpolation))
            cut = functional.center_crop(resized, [self.crop.size, self.crop.size])
            return to_tensor(cast(Image.Image, cut))
        size = (self.size, self.size) if self.square else self.size
        return to_tensor(radio_resize(image, size, self.step))

    def whole(self, image: Image.Image) -> Tensor:
        """An image for dense tasks: no pixel is cut off; where squares are needed, it is squeezed.

        Returns:
            float32 [3, H, W] in [0, 1].
        """
        if self.square:
            return to_tensor(image.resize((self.size, self.size), Image.Resampling.BICUBIC))
        return to_tensor(radio_resize(image, self.size, self.step))

    def to_json(self) -> dict[str, Any]:
        """How images are brought to their size for summaries, as JSON types."""
        if self.crop is not None:
            return {
                "resize": "centre crop",
                "size": self.crop.size,
                "shorter_side": self.crop.resize,
                "squash": self.crop.squash,
                "interpolation": self.crop.interpolation,
            }
        how = "RADIO's, to squares" if self.square else "RADIO's"
        return {"resize": how, "size": self.size, "step": self.step}
