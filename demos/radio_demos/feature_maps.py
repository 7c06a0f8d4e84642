"""The feature maps that the features tab shows: the student's, its heads', and the teachers'."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from radio_core.data.transforms import radio_resize_size, to_tensor
from radio_core.pictures import PcaColours, fit_pca, foreground
from radio_core.teachers import load_teacher
from radio_core.teachers.base import Teacher
from radio_core.vision import Resolution, nearest_resolution
from radio_demos.handlers import Late, Recent
from radio_demos.models import Student, device_of, only_size, teachers_of
from radio_demos.pictures import fingerprint

STUDENT = "student"

_LARGEST = 1024  # pixels of the slider's end for a model that names no limit
_SMALLEST = 8  # steps
_USUAL = 224  # pixels, where a model does not say what it prefers
_MOST_TOKENS = 4096  # of one map, that a projection is fitted to


class FeatureMap(NamedTuple):
    """Features [C, h, w] on the CPU; maps of the same `space` can be compared as they are."""

    name: str
    space: str
    features: Tensor


class SideRange(NamedTuple):
    """Sides in pixels that the slider offers."""

    least: int
    most: int
    step: int
    usual: int


class FeatureMaps:
    """A student and its teachers, asked for maps of pictures.

    Args:
        radio: the student.
        teachers: names for `load_teacher`; each is loaded when it is first wanted.

    Attributes:
        only_size: (height, width) in pixels to which every image is stretched, for a student that
            takes no others; None for one that sees images in their own shape.
    """

    def __init__(self, radio: Student, teachers: Sequence[str] = ()) -> None:
        self.radio = radio
        self.only_size = only_size(radio)
        self._device = device_of(radio)
        self._teachers = {name: Late(self._loader(name)) for name in teachers}
        self._bases: Recent[dict[str, PcaColours]] = Recent(most=32)

    @property
    def teachers(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self._teachers)

    @property
    def sides(self) -> SideRange:
        """What the student takes as its longest side."""
        step = self.radio.min_resolution_step
        if self.only_size is not None:
            side = max(self.only_size)
            return SideRange(side, side, step, side)
        usual = min(self.radio.preferred_resolution or (_USUAL,))
        most = (self.radio.max_resolution or _LARGEST) // step * step
        usual = max(step, min(most, round(usual / step) * step))
        return SideRange(min(_SMALLEST * step, usual), most, step, usual)

    def at(self, image: Image.Image, side: int, teachers: bool = False) -> list[FeatureMap]:
        """All maps of an image whose longest side becomes `side` pixels, see `size`.

        Raises:
            ValueError: a side beyond what the student is meant for.
        """
        least, most, _, _ = self.sides
        if not least <= side <= most:
            raise ValueError(f"resolution {side} is outside of {least} to {most} pixels")
        size = self.size(image, side)
        pixels = to_tensor(_resized(image, size))[None].to(self._device)
        names = tuple(self.radio.adaptors)
        with torch.inference_mode():
            outputs = self.radio.forward_all(pixels, names)
        maps = [_map(STUDENT, STUDENT, outputs["backbone"].features)]
        maps += [_map(f"{name} head", name, outputs[name].features) for name in names]
        if teachers:
            widths = {found.space: len(found.features) for found in maps}
            maps += [self._of_teacher(name, image, size, widths) for name in self._teachers]
        return maps

    def size(self, image: Image.Image, side: int) -> Resolution:
        """(height, width) at which the student sees an image: of its shape, or the only one."""
        step = self.radio.min_resolution_step
        size = radio_resize_size(image.height, image.width, side, step, longest_edge=True)
        return self.radio.nearest_supported_resolution(*size)

    def colours(
        self, image: Image.Image, masked: bool, teachers: bool = False
    ) -> Mapping[str, PcaColours]:
        """One projection for each space, the same for all resolutions of this image.

        They are fitted at the student's preferred resolution, to a head together with the teacher
        that it imitates, and turned so that all resemble the student's.

        Args:
            image: what is shown.
            masked: fit them to the foreground alone.
            teachers: whether the teachers' maps are among those that will be shown.
        """
        key = (fingerprint(image), masked, teachers)
        return self._bases.get(key, lambda: self._fit(image, masked, teachers))

    def _fit(self, image: Image.Image, masked: bool, teachers: bool) -> dict[str, PcaColours]:
        spaces: dict[str, list[Tensor]] = {}
        for found in self.at(image, self.sides.usual, teachers):
            spaces.setdefault(found.space, []).append(_fewer(found.features))
        bases: dict[str, PcaColours] = {}
        for space, maps in spaces.items():
            masks = [foreground(m) if masked else None for m in maps]
            colours = fit_pca([_seen(m, mask) for m, mask in zip(maps, masks, strict=True)])
            if bases:  # the student comes first
                wanted = bases[STUDENT].project(spaces[STUDENT][0])
                colours = colours.resembling(maps[0], wanted, masks[0])
            bases[space] = colours
        return bases

    def _of_teacher(
        self, name: str, image: Image.Image, size: Resolution, widths: Mapping[str, int]
    ) -> FeatureMap:
        """A teacher's map: at the student's resolution where it can, else at its own square."""
        teacher = self._teachers[name]()
        spec = teacher.spec
        seen = nearest_resolution(*size, spec.step) if spec.flexible else None
        pixels = to_tensor(image)[None].to(self._device)
        output = teacher(pixels, None if seen is None else (seen.height, seen.width))
        space = teachers_of(self.radio).get(name, name)
        if widths.get(space) != spec.feature_dim:
            space = name
        return _map(f"{name} (teacher)", space, output.features)

    def _loader(self, name: str) -> Callable[[], Teacher]:
        def load() -> Teacher:
            return load_teacher(name).to(self._device)

        return load


def _map(name: str, space: str, features: Tensor) -> FeatureMap:
    return FeatureMap(name, space, features[0].float().cpu())


def _seen(features: Tensor, mask: Tensor | None) -> Tensor:
    """A map [C, h, w], or what a mask leaves of it as [C, n, 1]."""
    return features if mask is None else features[:, mask][..., None]


def _fewer(features: Tensor) -> Tensor:
    """A map [C, h, w] averaged down to what a projection is quickly fitted to."""
    height, width = features.shape[-2:]
    shrink = (_MOST_TOKENS / (height * width)) ** 0.5
    if shrink >= 1:
        return features
    size = (max(1, int(height * shrink)), max(1, int(width * shrink)))
    return torch.nn.functional.adaptive_avg_pool2d(features, size)


def _resized(image: Image.Image, size: Resolution) -> Image.Image:
    return image.resize((size.width, size.height), Image.Resampling.BICUBIC)
