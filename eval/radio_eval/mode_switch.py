"""Does a student change its mind at another resolution? The paper's Figure 4 as numbers.

A student that met one teacher at low and another at high resolution only can have two "modes":
the features of its head then jump at some input size. All teachers at several resolutions cure
it; see `GroupConfig.resolutions` in radio_core.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from radio_core.data.images import UnreadableImage
from radio_core.data.sources import ImageSource
from radio_core.data.transforms import Crop, apply_crop
from radio_core.teachers import Teacher
from radio_eval.eval_model import EvalModel, need
from radio_eval.progress import Progress, silent

TASK = "mode-switch"
_DEFAULT_FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


@dataclass(frozen=True, kw_only=True)
class ResolutionScore:
    """How near a head is to its teacher at one input resolution.

    Attributes:
        resolution: side in pixels of the student's square input.
        mse: mean squared error over images, positions and channels, in the teacher's numbers.
        mse_std: standard deviation between images of their mean squared errors.
        cosine: mean cosine similarity over images and positions, in [-1, 1].
    """

    resolution: int
    mse: float
    mse_std: float
    cosine: float


@dataclass(frozen=True, kw_only=True)
class ModeSwitch:
    """The measure over all resolutions.

    Attributes:
        scores: one a resolution, in ascending order.
        images: how many were measured.
        skipped: unreadable file -> reason.
    """

    scores: tuple[ResolutionScore, ...]
    images: int
    skipped: Mapping[str, str]

    @property
    def largest_rise(self) -> tuple[int, int, float] | None:
        """(lower, higher, factor): the neighbours between which the error grows most; None where
        it never does."""
        rises = [
            (low.resolution, high.resolution, high.mse / low.mse)
            for low, high in zip(self.scores, self.scores[1:], strict=False)
            if high.mse > low.mse > 0
        ]
        return max(rises, key=lambda rise: rise[2], default=None)


def default_resolutions(model: EvalModel) -> tuple[int, ...]:
    """From half to twice the model's own size, in multiples of its step."""
    step = model.resize_step
    sizes = {max(round(model.image_size * f / step), 1) * step for f in _DEFAULT_FACTORS}
    return tuple(sorted(sizes))


def measure_mode_switch(
    model: EvalModel,
    teacher: Teacher,
    images: ImageSource,
    indices: Sequence[int],
    resolutions: Sequence[int],
    *,
    batch_size: int = 8,
    progress: Progress = silent,
) -> ModeSwitch:
    """Compare a head's features at several resolutions with its teacher's at the teacher's own.

    Each image's central square is resized to every size, from the original pixels. The student's
    map is brought to the teacher's grid bilinearly. No more than one batch is in memory.

    Args:
        model: whose `features` are those of the head.
        teacher: on the model's device.
        images: where they come from; unreadable ones are left out and listed.
        indices: which of them.
        resolutions: sides in pixels, multiples of the model's step.
        batch_size: images a forward pass.
        progress: listener.

    Raises:
        ValueError: a resolution that the model does not take, a head that is not this teacher's,
            no readable image.
    """
    need(model.features, model, "spatial features", TASK)
    sizes = sorted(set(resolutions))
    _check(sizes, batch_size, model)
    skipped: dict[str, str] = {}
    wanted = (teacher.spec.input_size, *sizes)
    found: dict[int, list[Tensor]] = {size: [] for size in sizes}  # [B, 2]: error, cosine
    done = 0
    for first in range(0, len(indices), batch_size):
        batch = indices[first : first + batch_size]
        pictures = list(_read(images, batch, wanted, skipped))
        if pictures:
            for size, scores in _compare(model, teacher, pictures, sizes):
                found[size].append(scores)
        done += len(pictures)
        progress(f"features at {len(sizes)} resolutions", first + len(batch), len(indices))
    if not done:
        raise ValueError(f"none of the {len(indices)} images can be read: {_first(skipped)}")
    return ModeSwitch(
        scores=tuple(_summarised(size, torch.cat(found[size])) for size in sizes),
        images=done,
        skipped=skipped,
    )


def _check(sizes: Sequence[int], batch_size: int, model: EvalModel) -> None:
    step = model.resize_step
    for size in sizes:
        if size < 1 or size % step:
            nearest = max(round(size / step), 1) * step
            raise ValueError(
                f"resolution {size} is not a multiple of the {step} pixels that {model.name!r} "
                f"needs; nearest: {nearest}"
            )
    if model.square:
        raise ValueError(f"model {model.name!r} takes images of one size only")
    if not sizes or batch_size < 1:
        raise ValueError("name at least one resolution, and a batch size of at least 1")


def _read(
    images: ImageSource, indices: Sequence[int], sizes: Sequence[int], skipped: dict[str, str]
) -> Iterator[dict[int, Tensor]]:
    """Each readable image as side -> [3, side, side] in [0, 1]."""
    for index in indices:
        try:
            image = images.read(index)
        except UnreadableImage as error:
            skipped[str(error.path)] = error.reason
            continue
        crop = _central_square(image)
        yield {size: apply_crop(image, crop, size).float() / 255 for size in sizes}


def _central_square(image: Image.Image) -> Crop:
    side = min(image.size)
    return Crop((image.height - side) // 2, (image.width - side) // 2, side, side)


@torch.inference_mode()
def _compare(
    model: EvalModel, teacher: Teacher, pictures: list[dict[int, Tensor]], sizes: Sequence[int]
) -> Iterator[tuple[int, Tensor]]:
    """(resolution, [B, 2] of error and cosine) of a batch."""
    assert model.features is not None

    def batch(size: int) -> Tensor:
        return torch.stack([picture[size] for picture in pictures]).to(model.device)

    goal = teacher(batch(teacher.spec.input_size)).features.float()  # [B, C, h, w]
    for size in sizes:
        features = model.features(batch(size)).float()
        if features.shape[1] != goal.shape[1]:
            raise ValueError(
                f"the head of {model.name!r} gives {features.shape[1]} channels, but teacher "
                f"{teacher.spec.name!r} has {goal.shape[1]}: it did not learn from that teacher"
            )
        fitted = F.interpolate(features, size=goal.shape[-2:], mode="bilinear", align_corners=False)
        error = (fitted - goal).square().mean(dim=(1, 2, 3))
        cosine = F.cosine_similarity(fitted, goal, dim=1).mean(dim=(1, 2))
        yield size, torch.stack([error, cosine], dim=1).double().cpu()


def _summarised(size: int, scores: Tensor) -> ResolutionScore:
    if not torch.isfinite(scores).all():
        raise ValueError(f"the features at resolution {size} are not finite")
    mse, cosine = scores.mean(dim=0).tolist()
    spread = scores[:, 0].std(correction=0).item()
    return ResolutionScore(resolution=size, mse=mse, mse_std=spread, cosine=cosine)


def _first(skipped: Mapping[str, str]) -> str:
    return "; ".join(f"{path}: {reason}" for path, reason in list(skipped.items())[:3])
