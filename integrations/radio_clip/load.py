"""From a name, a file or a loaded RADIO model to what open_clip's factories return.

One line takes the place of two::

    model, preprocess = open_clip.create_model_from_pretrained("ViT-H-14-quickgelu", "dfn5b")
    tokenizer = open_clip.get_tokenizer("ViT-H-14-quickgelu")

    model, preprocess, tokenizer = load_radio_clip("radio_h", "clip")

What follows stays as it was, `open_clip.build_zero_shot_classifier` among it. Two things are
RADIO's own: the model is in eval mode, and `preprocess` does not normalise, because RADIO does.
"""

from pathlib import Path

import torch

from radio_clip.model import RadioClip, RadioVisual, adaptor_specs
from radio_clip.preprocess import ImageSize, RadioPreprocess, build_preprocess
from radio_clip.text import TextEncoder, Tokenizer, load_text_encoder
from radio_core.export.card import AdaptorCard
from radio_core.export.runtime import SUFFIXES, ExportedModel, load_exported
from radio_core.models.adaptors import AdaptorConfig
from radio_core.models.conditioner import InputConditioner
from radio_core.models.radio import RadioModel
from radio_core.zoo.load import load_model

_FIRST_CHOICE = "clip"  # of the releases that can do several


def load_radio_clip(
    model: RadioModel | ExportedModel | str | Path,
    adaptor: str | None = None,
    *,
    image_size: ImageSize | None = None,
    keep_aspect: bool = False,
    text_tower: str | Path | None = None,
    output_dict: bool = False,
    device: str | torch.device | None = None,
) -> tuple[RadioClip, RadioPreprocess, Tokenizer]:
    """RADIO for scripts that were written for open_clip; see the top of this module.

    Args:
        model: a RADIO model (put into eval mode and used as it is, not copied); whatever
            `radio_core.load_model` takes ("toy", "radio_h", a file, a directory, a hub id); or a
            file that `radio export` wrote (.onnx, .engine, .pt2) with the adaptor in it, opened
            or not, which gives all but vectors of patches (`encode_image_dense`). Engines and
            .pt2 packages are programs: open only those that you trust.
        adaptor: an adaptor with a text tower; None for "clip", or for the only one.
        image_size: side in pixels, or (height, width), that `preprocess` makes; None for the size
            that the model prefers, or 224. Multiples of the model's resolution step.
        keep_aspect: `preprocess` scales the shortest edge to `image_size` and keeps the rest, as
            RADIO's evaluations do; such images can be batched with others of their shape only.
            False cuts out the centre, as open_clip does, so that all images have one shape.
        text_tower: local weights of the text tower, so that none is downloaded; None for those
            that `model` names.
        output_dict: the model's `forward` returns a dict instead of a tuple.
        device: where the model goes; None for where it is, the CPU for one that is loaded here.
            An exported model that is open already computes where it was opened.

    Returns:
        (model, preprocess, tokenizer): `RadioClip`; a function from a Pillow image to float32
        [3, H, W], RGB in [0, 1]; and a function from a text or a list of T texts to token ids
        [T, context_length] int64, which is the one of the adaptor's teacher.

    Raises:
        ValueError: an unknown model or adaptor, no adaptor with a text tower, or several without
            a "clip" and none named (the choices are listed); an image_size that the model does
            not take; a text tower that does not fit the adaptor; a model without its normalisation.
        FileNotFoundError: a file is missing.
        OSError: a model cannot be downloaded.
        ImportError: the extra "clip" or "hf", which the text tower needs, is missing; or the
            package that runs an exported file.
    """
    radio = _opened(model, adaptor, device)
    if isinstance(radio, RadioModel) and not isinstance(radio.conditioner, InputConditioner):
        raise ValueError(
            "the model's normalisation was taken out (make_preprocessor_external): load it anew"
        )
    chosen = _choose(radio, adaptor)
    preprocess = build_preprocess(radio, image_size, keep_aspect)
    assert chosen.text_tower is not None
    own = radio.text_tower_paths if isinstance(radio, RadioModel) else {}
    path = text_tower or own.get(chosen.name)
    text = load_text_encoder(chosen.text_tower, path)
    _check_widths(chosen, text, path or chosen.text_tower)
    clip = RadioClip(RadioVisual(radio, chosen.name, preprocess), text, output_dict)
    at = radio.device if isinstance(radio, ExportedModel) else next(radio.parameters()).device
    clip.to(at if device is None else device)
    return clip.eval(), preprocess, text.tokenizer


def _opened(
    model: RadioModel | ExportedModel | str | Path,
    adaptor: str | None,
    device: str | torch.device | None,
) -> RadioModel | ExportedModel:
    if isinstance(model, RadioModel | ExportedModel):
        return model
    if Path(model).suffix in SUFFIXES:
        return load_exported(model, device or "cpu")
    return load_model(model, adaptors=() if adaptor is None else (adaptor,))


def _choose(radio: RadioModel | ExportedModel, name: str | None) -> AdaptorConfig | AdaptorCard:
    """The adaptor of that name; without one "clip", or the only one with a text tower."""
    specs = adaptor_specs(radio)
    having = {a.name: a for a in specs.values() if a.text_tower and a.summary_dim}
    listed = ", ".join(having) or "none"
    if name is not None:
        radio.check_adaptors([name])
        if name not in having:
            raise ValueError(f"adaptor {name!r} has no text tower; those that do: {listed}")
        return having[name]
    if len(having) == 1 or _FIRST_CHOICE in having:
        return having.get(_FIRST_CHOICE) or next(iter(having.values()))
    if having:
        raise ValueError(f"several adaptors have a text tower; name one of them: {listed}")
    known = ", ".join(radio.adaptors) or "none"
    raise ValueError(f"this model has no adaptor with a text tower; its adaptors: {known}")


@torch.no_grad()
def _check_widths(
    adaptor: AdaptorConfig | AdaptorCard, text: TextEncoder, where: str | Path
) -> None:
    width = text(text.tokenizer([""])).shape[-1]
    if width != adaptor.summary_dim:
        raise ValueError(
            f"the text tower {where} gives vectors of width {width}, but adaptor {adaptor.name!r} "
            f"gives {adaptor.summary_dim}: name the text tower of its teacher"
        )
