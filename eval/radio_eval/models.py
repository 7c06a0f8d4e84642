"""RADIO, teachers and other libraries' models for the evaluators, by what users call them."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from radio_core.models import RadioConfig, RadioModel, vit_config
from radio_core.teachers import TEACHER_FORMS, TOY_TEACHERS, Teacher, load_teacher
from radio_core.teachers.load import is_teacher
from radio_core.teachers.open_clip import OpenClipTeacher
from radio_core.teachers.segment_anything import SamTeacher
from radio_core.zoo.load import load_model
from radio_core.zoo.releases import BUNDLED, find_release
from radio_eval.backbones.exported import (
    is_exported,
    load_exported_encoder,
    load_exported_model,
)
from radio_eval.backbones.teachers import features_of, summary_of
from radio_eval.backbones.timm_models import load_timm
from radio_eval.backbones.transformers_models import load_transformers
from radio_eval.eval_model import CentreCrop, EvalModel, ImageText
from radio_sam.load import ORIGINAL, TOY_SAM, load_radio_sam
from radio_sam.swap import ImageSize, swap_image_encoder

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

DEFAULT_SIZE = 224
"""Side in pixels of the images for a model that does not say which it prefers."""

RANDOM = "random:"
RADIO = "radio:"
SAM_ADAPTOR = "sam"
SAM_TEACHER = "sam:"


def from_radio(
    radio: RadioModel,
    name: str,
    base_sam: "Callable[[], Sam] | None" = None,
    adaptor: str = "",
) -> EvalModel:
    """A RADIO model for the evaluators.

    kNN sees the backbone's summary and dense tasks the backbone's features, zero-shot the first
    adaptor that has a text tower; or all of them the adaptor that is named. SAM sees the adaptor
    named "sam".

    Args:
        radio: the model; it is put into eval mode.
        name: of its row.
        base_sam: gives the Sam whose neck and decoder are used; None for a model without SAM.
        adaptor: see above.

    Raises:
        ValueError: it has no such adaptor; the known ones are listed.
    """
    radio.eval()
    wanted = radio.check_adaptors((adaptor,) if adaptor else ())
    head = adaptor or "backbone"
    height, width = radio.preferred_resolution or (DEFAULT_SIZE, DEFAULT_SIZE)

    def summary(images: Tensor) -> Tensor:
        return _filled(radio.forward_all(images, wanted)[head].summary)

    def features(images: Tensor) -> Tensor:
        return radio.forward_all(images, wanted)[head].features

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
        image_text=_radio_image_text(radio, adaptor),
        sam=sam,
        module=radio,
        config=f"{head} of {radio.config!r}",
    )


def _radio_image_text(radio: RadioModel, adaptor: str) -> ImageText | None:
    """The named adaptor if it has a text tower; the first that has one if none is named."""
    names = [a.name for a in radio.config.adaptors if a.text_tower and a.summary_dim]
    if adaptor:
        names = [name for name in names if name == adaptor]
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
    """A teacher for the evaluators, at its own size.

    kNN sees its summary; where it has none (SAM), the mean of its features.
    """
    spec, summary = teacher.spec, summary_of(teacher)
    text, crop = None, None
    if isinstance(teacher, OpenClipTeacher):
        text = ImageText(encode_image=summary, encode_text=teacher.encode_text)
        crop = _open_clip_crop(teacher)
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
        features=features_of(teacher),
        image_text=text,
        sam=sam,
        crop=crop,
        module=teacher,
    )


def _open_clip_crop(teacher: OpenClipTeacher) -> CentreCrop:
    """open_clip's evaluation transform.

    Raises:
        ValueError: it pads images, which is not known here.
    """
    settings = getattr(teacher.model.visual, "preprocess_cfg", {})
    mode, size = settings.get("resize_mode", "shortest"), teacher.spec.input_size
    if mode not in ("shortest", "squash"):
        raise ValueError(
            f"open_clip model {teacher.spec.name!r} resizes images by {mode!r}; known: shortest, "
            "squash"
        )
    return CentreCrop(
        size=size,
        resize=size,
        squash=mode == "squash",
        interpolation=settings.get("interpolation", "bicubic"),
    )


def random_like(radio: RadioModel, seed: int = 0) -> RadioModel:
    """A model of the same shape with freshly initialised weights: the "random weights" baseline."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RadioModel(radio.config).eval()


MODEL_FORMS = (
    *BUNDLED,
    *TOY_TEACHERS,
    "random:tiny",
    *TEACHER_FORMS,
    "a release or its hub id (see `radio models`)",
    "a file or folder with a RADIO model",
    "a file that `radio export` wrote (.onnx, .engine, .pt2)",
)
"""What `load_eval_model` takes, for people."""

_LIBRARIES: dict[str, Callable[[str, str | torch.device], EvalModel]] = {
    "timm:": load_timm,
    "hf:": load_transformers,
}


def load_eval_model(
    source: str, sam: str = TOY_SAM, device: str | torch.device = "cpu", adaptor: str = ""
) -> EvalModel:
    """Find a model by what a user calls it.

    Args:
        source: whatever `load_model` takes ("toy", "radio_h", a file, folder or hub id), a teacher
            as `load_teacher` takes it ("toy-clip", "open_clip:...", "dinov3:...", "timm:NAME",
            "hf:ID"), "random:PRESET" for random weights ("random:tiny"), or a file that
            `radio export` wrote (.onnx, .engine, .pt2).
        sam: whose neck and decoder go behind a RADIO model; see `radio_sam.load_radio_sam`.
        device: where the model goes, and expects its images.
        adaptor: of a RADIO model, for all that it does; see `from_radio`.

    Raises:
        ValueError: nothing of that name, or no such adaptor; the message lists the known forms.
    """
    if source.startswith(RADIO):
        source, _, named = source.removeprefix(RADIO).partition("#")
        adaptor = adaptor or named
    if is_exported(source):
        return load_exported_model(source, device, adaptor)
    model = _load_other(source, device)
    if model is not None:
        if adaptor:
            raise ValueError(f"only RADIO models have adaptors, such as {adaptor!r}: not {source}")
        return model

    def base_sam() -> "Sam":
        return load_radio_sam(ORIGINAL, sam, device=device)

    release = find_release(source)
    if source in BUNDLED or Path(source).exists():
        name = Path(source).name
    elif release is not None:
        name = release.name
    elif _is_hub_id(source):
        name = source
    else:
        raise ValueError(f"unknown model {source!r}; known: {', '.join(MODEL_FORMS)}")
    return from_radio(load_model(source, device=device), name, base_sam, adaptor)


def _load_other(source: str, device: str | torch.device) -> EvalModel | None:
    """A model without adaptors: a teacher, another library's, or random weights."""
    for prefix, load in _LIBRARIES.items():
        if source.startswith(prefix):
            return load(source.removeprefix(prefix), device)
    if source.startswith(RANDOM):
        config = RadioConfig(backbone=vit_config(source.removeprefix(RANDOM)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return from_radio(RadioModel(config).to(device), source)
    if is_teacher(source):
        return from_teacher(load_teacher(source).to(device))
    return None


def _is_hub_id(source: str) -> bool:
    """ORG/REPO, and no path that somebody mistyped."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) is not None and not (
        Path(source).parent.exists()
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
    source = source.removeprefix(RADIO)
    is_sam = source in (ORIGINAL, TOY_SAM) or source.startswith(SAM_TEACHER)
    if is_exported(source):
        if window_size is not None or image_size is not None or skip_padding:
            raise ValueError(
                f"{source} has its window_size and image_size in it, and computes the padding: "
                "leave these options out"
            )
        return load_exported_encoder(source, sam, device)
    if not is_sam and (is_teacher(source) or source.startswith(RANDOM)):
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
