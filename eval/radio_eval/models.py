"""RADIO models and teachers for the evaluators, found by the names that users give them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from radio_core.models import RadioConfig, RadioModel, vit_config
from radio_core.teachers import TOY_TEACHERS, Teacher, load_teacher
from radio_core.teachers.open_clip import OpenClipTeacher
from radio_core.teachers.sam import SamTeacher
from radio_core.zoo.load import load_model
from radio_core.zoo.registry import BUNDLED
from radio_core.zoo.releases import find_release
from radio_eval.eval_model import EvalModel, ImageText
from radio_sam.load import ORIGINAL, TOY_SAM, load_radio_sam
from radio_sam.swap import ImageSize, swap_image_encoder

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

DEFAULT_SIZE = 224
"""Side in pixels of the images for a model that does not say which it prefers."""

RANDOM = "random:"
TEACHER_FORMS = ("open_clip:", "dinov2:", "sam:")
SAM_ADAPTOR = "sam"
SAM_TEACHER = "sam:"


def from_radio(
    radio: RadioModel, name: str, base_sam: "Callable[[], Sam] | None" = None
) -> EvalModel:
    """A RADIO model for the evaluators.

    kNN sees the backbone's summary, dense tasks the backbone's features, zero-shot the first
    adaptor that has a text tower, SAM the adaptor named "sam".

    Args:
        radio: the model; it is put into eval mode.
        name: of its row.
        base_sam: gives the Sam whose neck and decoder are used; None for a model without SAM.
    """
    radio.eval()
    height, width = radio.preferred_resolution or (DEFAULT_SIZE, DEFAULT_SIZE)

    def summary(images: Tensor) -> Tensor:
        return _filled(radio.forward_all(images)["backbone"].summary)

    def features(images: Tensor) -> Tensor:
        return radio.forward_all(images)["backbone"].features

    sam: Callable[[], Sam] | None = None
    if base_sam is not None and SAM_ADAPTOR in radio.adaptors:
        given = base_sam

        def sam() -> "Sam":
            return swap_image_encoder(given(), radio, SAM_ADAPTOR)

    return EvalModel(
        name=name,
        image_size=min(height, width),
        resize_step=radio.min_resolution_step,
        summary=summary,
        features=features,
        image_text=_radio_image_text(radio),
        sam=sam,
    )


def _radio_image_text(radio: RadioModel) -> ImageText | None:
    """The first adaptor with a text tower, if there is one."""
    names = [a.name for a in radio.config.adaptors if a.text_tower and a.summary_dim]
    if not names:
        return None
    name = names[0]

    def encode_image(images: Tensor) -> Tensor:
        return _filled(radio.forward_all(images, (name,))[name].summary)

    def encode_text(texts: Sequence[str]) -> Tensor:
        return radio.encode_text(name, texts)

    return ImageText(encode_image=encode_image, encode_text=encode_text)


def _filled(summary: Tensor | None) -> Tensor:
    """The summary of an output that is known to have one."""
    assert summary is not None
    return summary


def from_teacher(teacher: Teacher) -> EvalModel:
    """A teacher for the evaluators.

    kNN sees its summary; where it has none (SAM), the mean of its features.
    """
    spec = teacher.spec

    def summary(images: Tensor) -> Tensor:
        output = teacher(images)
        pooled: Tensor = (
            output.features.mean(dim=(2, 3)) if output.summary is None else output.summary
        )
        return pooled

    def features(images: Tensor) -> Tensor:
        maps: Tensor = teacher(images).features
        return maps

    text = None
    if isinstance(teacher, OpenClipTeacher):
        text = ImageText(encode_image=summary, encode_text=teacher.encode_text)
    sam: Callable[[], Sam] | None = None
    if isinstance(teacher, SamTeacher):
        given = teacher.sam

        def sam() -> "Sam":
            return given

    return EvalModel(
        name=spec.name,
        image_size=spec.input_size,
        resize_step=spec.patch_size,
        square=True,
        summary=summary,
        features=features,
        image_text=text,
        sam=sam,
    )


def random_like(radio: RadioModel, seed: int = 0) -> RadioModel:
    """A model of the same shape with freshly initialised weights: the "random weights" baseline."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RadioModel(radio.config).eval()


def load_eval_model(source: str, sam: str = TOY_SAM) -> EvalModel:
    """Find a model by what a user calls it.

    Args:
        source: whatever `load_model` takes ("toy", "radio_h", a file or folder), a teacher as
            `load_teacher` takes it ("toy-clip", "dinov2:..."), or "random:PRESET" for random
            weights ("random:tiny").
        sam: whose neck and decoder go behind a RADIO model; see `radio_sam.load_radio_sam`.

    Raises:
        ValueError: nothing of that name; the message lists the known ones.
    """

    def base_sam() -> "Sam":
        return load_radio_sam(ORIGINAL, sam)

    if source.startswith(RANDOM):
        config = RadioConfig(backbone=vit_config(source.removeprefix(RANDOM)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return from_radio(RadioModel(config), source)
    if source in TOY_TEACHERS or source.startswith(TEACHER_FORMS):
        return from_teacher(load_teacher(source))
    if source in BUNDLED or Path(source).exists():
        return from_radio(load_model(source), Path(source).name, base_sam)
    release = find_release(source)
    if release is not None:
        return from_radio(load_model(source), release.name, base_sam)
    raise ValueError(
        f"unknown model {source!r}; known: {', '.join((*BUNDLED, *TOY_TEACHERS))}, random:tiny, "
        f"{', '.join(form + '...' for form in TEACHER_FORMS)}, the releases (see `radio models`), "
        "or an existing file or folder with a model"
    )


def load_sam_model(
    source: str,
    sam: str = TOY_SAM,
    *,
    window_size: int | None = None,
    image_size: ImageSize | None = None,
    skip_padding: bool = False,
    device: str | torch.device = "cpu",
) -> EvalModel:
    """A model for SAM's evaluation alone.

    Args:
        source: as `load_eval_model` takes it, or "sam" for the original of `sam`.
        sam: an official checkpoint ("vit_h:FILE", or the file alone), a directory, or "toy-sam".
        window_size: see `radio_sam.swap_image_encoder`, as the next two.
        image_size: of the padded input.
        skip_padding: do not compute the padding.
        device: where it runs.

    Raises:
        ValueError: nothing of that name, or options that do not fit.
    """
    is_sam = source in (ORIGINAL, TOY_SAM) or source.startswith(SAM_TEACHER)
    if not is_sam and (source in TOY_TEACHERS or source.startswith((*TEACHER_FORMS, RANDOM))):
        return load_eval_model(source)  # it has no decoder, and is refused by that
    if is_sam:
        sam = sam if source == ORIGINAL else source.removeprefix(SAM_TEACHER)
    model = load_radio_sam(
        ORIGINAL if is_sam else source,
        sam,
        SAM_ADAPTOR,
        window_size,
        image_size,
        skip_padding,
        device,
    )
    release = find_release(source)
    return EvalModel(
        name=Path(source).name if release is None else release.name,
        image_size=int(model.image_encoder.img_size),
        resize_step=1,
        sam=lambda: model,
    )
