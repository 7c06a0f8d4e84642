"""RADIO with open_clip's interface: images and texts in one space.

One line takes the place of two::

    model, preprocess = open_clip.create_model_from_pretrained("ViT-H-14-quickgelu", "dfn5b")
    tokenizer = open_clip.get_tokenizer("ViT-H-14-quickgelu")

    model, preprocess, tokenizer = load_radio_clip("radio_h", "clip")

What follows stays as it was, `open_clip.build_zero_shot_classifier` among it. Two things are
RADIO's own: the model is in eval mode, and `preprocess` does not normalise, because RADIO does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from radio_clip.text import TextEncoder, Tokenizer, load_text_encoder
from radio_core.data.transforms import radio_resize, to_tensor
from radio_core.export.card import AdaptorCard
from radio_core.export.runtime import SUFFIXES, ExportedModel, load_exported
from radio_core.models.adaptors import Adaptor, AdaptorConfig
from radio_core.models.normalizers import InputConditioner
from radio_core.models.radio import RadioModel
from radio_core.zoo.load import load_model

DEFAULT_SIZE = 224
"""Side in pixels of the images for a model that does not say which it prefers."""

ImageSize = int | tuple[int, int]
Radio = RadioModel | ExportedModel

_FIRST_CHOICE = "clip"  # of the releases that can do several


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
    radio: Radio, image_size: ImageSize | None = None, keep_aspect: bool = False
) -> RadioPreprocess:
    """The preprocessing of a model; arguments and errors as `load_radio_clip`."""
    step = radio.min_resolution_step
    if image_size is None:
        preferred = radio.preferred_resolution or (DEFAULT_SIZE, DEFAULT_SIZE)
        height, width = radio.nearest_supported_resolution(*preferred)
        image_size = min(height, width) if keep_aspect else (height, width)
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


def adaptor_specs(radio: Radio) -> dict[str, AdaptorConfig] | dict[str, AdaptorCard]:
    """What is known of each adaptor, by name: `summary_dim` and `text_tower` among it."""
    if isinstance(radio, ExportedModel):
        return radio.adaptors
    return {spec.name: spec for spec in radio.config.adaptors}


class RadioVisual(nn.Module):
    """The image side: RADIO, used as it is, and the summary head of one adaptor.

    Attributes:
        image_size: (height, width) in pixels of `preprocess`; other multiples of the model's
            resolution step work too.
        output_dim: width D of the embeddings.
        image_mean: zeros, because RADIO normalises images itself.
        image_std: ones, likewise.
        preprocess_cfg: the fields of open_clip's `PreprocessCfg`.
    """

    def __init__(self, radio: Radio, adaptor: str, preprocess: RadioPreprocess) -> None:
        super().__init__()
        self.radio = radio
        self.adaptor = adaptor
        self.image_size = preprocess.image_size
        self.output_dim = adaptor_specs(radio)[adaptor].summary_dim
        self.preprocess_cfg = preprocess.open_clip_config()
        self.image_mean: tuple[float, ...] = self.preprocess_cfg["mean"]
        self.image_std: tuple[float, ...] = self.preprocess_cfg["std"]

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], RGB in [0, 1], to summaries [B, D] float32, not normalised."""
        summary = self.radio.forward_all(images, (self.adaptor,))[self.adaptor].summary
        assert summary is not None
        return summary

    def dense(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], RGB in [0, 1], to [B, h, w, D] float32; see `encode_image_dense`."""
        radio = self.radio
        if isinstance(radio, ExportedModel):
            raise ValueError(
                "an exported file gives the summaries of whole images, and its heads cannot read "
                "patches in their place: load the model that it was made from"
            )
        if radio.config.backbone.feature_start is not None:
            raise ValueError("the features of this model hold other tokens too and are no map")
        pixels = radio.conditioner(images).to(next(radio.backbone.parameters()).dtype)
        # Straight from the backbone: a feature normalizer would take the patches out of the space
        # of the summary tokens, which is the one that the summary head reads.
        features = radio.backbone(pixels, radio.window_size or None).features  # [B, C, h, w]
        head = radio.adaptors[self.adaptor]
        assert isinstance(head, Adaptor)
        assert head.summary_head is not None
        embedded: Tensor = head.summary_head(features.movedim(1, -1).to(head.dtype))
        return embedded.float()


class RadioClip(nn.Module):
    """RADIO in the form of open_clip's `CLIP`.

    Wherever a script wants a model that `open_clip.create_model` made, for inference, this one
    serves. Embeddings come in the dtype of `logit_scale`: float32, or what `half()` or `to(dtype)`
    made of it. The text tower is frozen and stays in eval mode; `train()` reaches RADIO alone.

    Attributes:
        visual: the image side.
        text: the text side.
        output_dict: `forward` returns a dict instead of a tuple.
        radio: the RADIO model inside, or the exported one.
        tokenizer: texts to token ids [T, context_length] int64.
        logit_scale: logarithm of the teacher's factor of the logits, a scalar parameter.
        logit_bias: what the teacher adds to the logits, a scalar parameter; None without (CLIP).
        context_length: tokens a text.
        vocab_size: number of token ids; None where the text tower does not say.
    """

    def __init__(self, visual: RadioVisual, text: TextEncoder, output_dict: bool = False) -> None:
        super().__init__()
        self.visual = visual
        self.text = text
        self.output_dict = output_dict
        self.tokenizer = text.tokenizer
        self.context_length = text.context_length
        self.vocab_size = text.vocab_size
        self.logit_scale = nn.Parameter(torch.tensor(text.scale).log())
        bias = text.bias
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(bias))

    @property
    def radio(self) -> Radio:
        """See the class."""
        return self.visual.radio

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Images [B, 3, H, W], RGB in [0, 1], to [B, D] in the space of the texts."""
        return self._finished(self.visual(image), normalize)

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Token ids [T, L] int64, on the model's device, to [T, D] in the space of the images."""
        return self._finished(self.text(text), normalize)

    def get_logits(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled similarities of images [B, 3, H, W] with token ids [T, L]: [B, T] and [T, B]."""
        image_features = self.encode_image(image, normalize=True)
        text_features = self.encode_text(text, normalize=True)
        logits = self.logit_scale.exp() * image_features @ text_features.T
        if self.logit_bias is not None:
            logits = logits + self.logit_bias
        return logits, logits.T

    def forward(self, image: Tensor | None = None, text: Tensor | None = None) -> Any:
        """Both sides, normalised, as open_clip's `CLIP.forward` returns them.

        Returns:
            (image_features [B, D], text_features [T, D], scale) and, for a teacher that has one,
            the bias; or a dict with "image_features", "text_features", "logit_scale" (and
            "logit_bias") where `output_dict` is set. The scale is a factor, not its logarithm.
            What was not given is None.
        """
        results: dict[str, Tensor | None] = {
            "image_features": None if image is None else self.encode_image(image, normalize=True),
            "text_features": None if text is None else self.encode_text(text, normalize=True),
            "logit_scale": self.logit_scale.exp(),
        }
        if self.logit_bias is not None:
            results["logit_bias"] = self.logit_bias
        return results if self.output_dict else tuple(results.values())

    def encode_image_dense(self, images: Tensor, normalize: bool = True) -> Tensor:
        """A vector in the space shared with texts for every patch.

        The adaptor's summary head reads each patch of the backbone in the place of the summary
        token. Nothing in the training asks for this: what is trained to agree with texts is the
        summary alone (the paper's equations 1 and 2), and the adaptor's spatial head imitates
        CLIP's own patches (equation 3), which CLIP never compares with a text. So patches name
        what is in an image, and how well they say where it is depends on the model: measure it.
        Of the bundled "toy" they repeat the summary of the whole image. At high resolution
        features may jump to another mode (figure 4).

        Args:
            images: [B, 3, H, W], RGB in [0, 1]; H and W multiples of the resolution step.
            normalize: scale each vector to length 1.

        Returns:
            [B, h, w, D], row-major, one vector for each `radio.patch_size` pixels of each side.

        Raises:
            ValueError: a size that the model does not take, a model whose features are no map, or
                an exported one, of which the summary head cannot be called alone.
        """
        return self._finished(self.visual.dense(images), normalize)

    def dense_similarity(self, images: Tensor, text_features: Tensor) -> Tensor:
        """Cosine similarity of every patch with every text; see `encode_image_dense`.

        Args:
            images: [B, 3, H, W], RGB in [0, 1].
            text_features: [K, D] of `encode_text`, of any length; a classifier [D, K] of
                `open_clip.build_zero_shot_classifier` is given transposed.

        Returns:
            [B, K, h, w] in [-1, 1].
        """
        width = self.visual.output_dim
        if text_features.ndim != 2 or text_features.shape[1] != width:
            raise ValueError(
                f"text_features must be [texts, {width}], not {tuple(text_features.shape)}"
            )
        dense = self.encode_image_dense(images)  # [B, h, w, D]
        texts = F.normalize(text_features.to(dense), dim=-1)
        return (dense @ texts.T).movedim(-1, 1)

    @torch.no_grad()
    def segment(
        self,
        images: Tensor,
        texts: Sequence[str] | Tensor,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Open-vocabulary segmentation: the nearest text of every pixel.

        The similarities are brought to `size` (bilinear) before the best is taken. How far these
        maps can be trusted is said at `encode_image_dense`.

        Args:
            images: [B, 3, H, W], RGB in [0, 1].
            texts: K names or sentences, one a class; or their features [K, D], e.g. averaged over
                templates.
            size: (height, width) of the maps in pixels; None for that of `images`.

        Returns:
            [B, height, width] int64, indices into `texts`.
        """
        if isinstance(texts, str) or len(texts) == 0:
            raise ValueError(f"texts must be a list of one or more strings, not {texts!r}")
        if not isinstance(texts, Tensor):
            texts = self.encode_text(self.tokenizer(list(texts)).to(images.device))
        similarity = self.dense_similarity(images, texts)  # [B, K, h, w]
        resized = F.interpolate(
            similarity.float(), size=size or images.shape[-2:], mode="bilinear", align_corners=False
        )
        return resized.argmax(dim=1)

    def _finished(self, features: Tensor, normalize: bool) -> Tensor:
        features = features.to(self.logit_scale.dtype)
        return F.normalize(features, dim=-1) if normalize else features


def load_radio_clip(
    model: Radio | str | Path,
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
    if isinstance(model, RadioModel | ExportedModel):
        radio: Radio = model
    elif Path(model).suffix in SUFFIXES:
        radio = load_exported(model, device or "cpu")
    else:
        radio = load_model(model)
    if isinstance(radio, ExportedModel):
        place = device or radio.device
    else:
        if not isinstance(radio.conditioner, InputConditioner):
            raise ValueError(
                "the model's normalisation was taken out (make_preprocessor_external): load it anew"
            )
        place = device or next(radio.parameters()).device
    spec = _choose(radio, adaptor)
    preprocess = build_preprocess(radio, image_size, keep_aspect)
    assert spec.text_tower is not None
    path = text_tower or radio.text_towers.paths.get(spec.name)
    text = load_text_encoder(spec.text_tower, path)
    with torch.no_grad():
        width = text(text.tokenizer([""])).shape[-1]
    if width != spec.summary_dim:
        raise ValueError(
            f"the text tower {path or spec.text_tower} gives vectors of width {width}, but adaptor "
            f"{spec.name!r} gives {spec.summary_dim}: name the text tower of its teacher"
        )
    clip = RadioClip(RadioVisual(radio, spec.name, preprocess), text, output_dict)
    clip.to(place)
    return clip.eval(), preprocess, text.tokenizer


def _choose(radio: Radio, name: str | None) -> AdaptorConfig | AdaptorCard:
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
