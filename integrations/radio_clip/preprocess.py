"""From a picture to what RADIO takes: RADIO's resize, and no normalisation."""

from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from radio_core.data.transforms import radio_resize, to_tensor
from radio_core.export.runtime import ExportedModel
from radio_core.models.radio import RadioModel

DEFAULT_SIZE = 224
"""Side in pixels of the images for a model that does not say which it prefers."""

ImageSize = int | tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class RadioPreprocess:
    """A Pillow image of any mode and size to float32 [3, H, W], RGB in [0, 1].

    It can be pickled, so that a `DataLoader`'s workers can run it.

    Attributes:
        image_size: (height, width) in pixels.
        step: the model's resolution step in pixels.
        keep_aspect: scale the shortest edge to `image_size[0]` and round both sides to the step;
            then images of several shapes have results of several shapes. Otherwise every result
            has `image_size`: the image is scaled to cover it, and its centre is cut out.
    """

    image_size: tuple[int, int]
    step: int
    keep_aspect: bool = False

    def __call__(self, image: Image.Image) -> Tensor:
        """float32 [3, H, W] in [0, 1]; bicubic, as `radio_core.data.transforms.radio_resize`."""
        size = self.image_size[0] if self.keep_aspect else self.image_size
        return to_tensor(radio_resize(image, size, self.step))

    def open_clip_config(self) -> dict[str, Any]:
        """The same as open_clip's `PreprocessCfg`: no mean and a standard deviation of one.

        open_clip cannot round a side to a step, so images that are not square differ by less than
        a step before the crop.
        """
        return {
            "size": self.image_size,
            "mode": "RGB",
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
            "fill_color": 0,
        }


def build_preprocess(
    radio: RadioModel | ExportedModel,
    image_size: ImageSize | None = None,
    keep_aspect: bool = False,
) -> RadioPreprocess:
    """The preprocessing of a model.

    Args:
        radio: says which sizes it takes.
        image_size: side in pixels, or (height, width); None for the size that the model prefers.
        keep_aspect: see `RadioPreprocess`.

    Raises:
        ValueError: a size that the model does not take (the nearest that it does is named), or
            two different sides where the image keeps its own aspect ratio.
    """
    step = radio.min_resolution_step
    if image_size is None:
        preferred = radio.preferred_resolution or (DEFAULT_SIZE, DEFAULT_SIZE)
        size = tuple(radio.nearest_supported_resolution(*preferred))
        size = (min(size), min(size)) if keep_aspect else size
    else:
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"image_size {image_size!r} must be a side or (height, width), all >= 1")
    if keep_aspect and size[0] != size[1]:
        raise ValueError(f"keep_aspect takes one side in pixels as image_size, not {size}")
    nearest = tuple(radio.nearest_supported_resolution(*size))
    if size != nearest:
        raise ValueError(
            f"image_size {size}: the model takes multiples of {step} pixels; nearest: {nearest}"
        )
    return RadioPreprocess(image_size=(size[0], size[1]), step=step, keep_aspect=keep_aspect)
