"""What the evaluators ask of a teacher, as functions of images."""

from torch import Tensor

from radio_core.teachers import Teacher
from radio_core.vision import Output
from radio_eval.eval_model import CentreCrop, ImageFunction


def summary_of(teacher: Teacher, any_size: bool = False) -> ImageFunction:
    """Images [B, 3, H, W] -> its summary [B, D]; where it has none, the mean of its features.

    Args:
        teacher: sees the images at its own size.
        any_size: it sees them as they are, where it is flexible.
    """

    def summary(images: Tensor) -> Tensor:
        output = _run(teacher, images, any_size)
        return output.features.mean(dim=(2, 3)) if output.summary is None else output.summary

    return summary


def features_of(teacher: Teacher, any_size: bool = False) -> ImageFunction:
    """Images [B, 3, H, W] -> its features [B, F, h, w]; arguments as `summary_of`."""

    def features(images: Tensor) -> Tensor:
        return _run(teacher, images, any_size).features

    return features


def fitted(crop: CentreCrop, teacher: Teacher) -> CentreCrop:
    """The crop at a size that the teacher takes, at most its own."""
    step = teacher.spec.step
    return crop.scaled(max(1, crop.size // step) * step)


def _run(teacher: Teacher, images: Tensor, any_size: bool) -> Output:
    height, width = images.shape[-2:]
    as_they_are = any_size and teacher.spec.flexible
    output: Output = teacher(images, (height, width) if as_they_are else None)
    return output
