"""RADIO with open_clip's interface: images and texts in one space."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio_clip.preprocess import RadioPreprocess
from radio_clip.text import TextEncoder, Tokenizer
from radio_core.export.card import AdaptorCard
from radio_core.export.runtime import ExportedModel
from radio_core.models.adaptors import Adaptor, AdaptorConfig
from radio_core.models.radio import RadioModel


class RadioVisual(nn.Module):
    """The image side: RADIO and the summary head of one adaptor.

    Args:
        radio: the model, or one that was exported; used as it is, not copied.
        adaptor: name of an adaptor with a summary.
        preprocess: tells open_clip's scripts what images must look like.

    Attributes:
        image_size: (height, width) in pixels of `preprocess`; other multiples of the model's
            resolution step work too.
        output_dim: width D of the embeddings.
        image_mean: zeros, because RADIO normalises images itself.
        image_std: ones, likewise.
        preprocess_cfg: the fields of open_clip's `PreprocessCfg`.
    """

    def __init__(
        self, radio: RadioModel | ExportedModel, adaptor: str, preprocess: RadioPreprocess
    ) -> None:
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

    Args:
        visual: the image side.
        text: the text side.
        output_dict: `forward` returns a dict instead of a tuple.

    Attributes:
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
        self.context_length = text.context_length
        self.vocab_size = text.vocab_size
        self.logit_scale = nn.Parameter(torch.tensor(text.scale).log())
        bias = text.bias
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(bias))

    @property
    def radio(self) -> RadioModel | ExportedModel:
        """The RADIO model inside, or the exported one."""
        return self.visual.radio

    @property
    def tokenizer(self) -> Tokenizer:
        """Texts to token ids [T, context_length] int64."""
        return self.text.tokenizer

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Images to the space shared with texts.

        Args:
            image: [B, 3, H, W], RGB in [0, 1]; H and W multiples of the model's resolution step.
            normalize: scale each vector to length 1.

        Returns:
            [B, D], the summary of the adaptor.

        Raises:
            ValueError: a size that the model does not take; the nearest that it does is named.
        """
        return self._finished(self.visual(image), normalize)

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Token ids to the space shared with images.

        Args:
            text: [T, L] int64 of the tokenizer, on the model's device.
            normalize: scale each vector to length 1.

        Returns:
            [T, D].
        """
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

        Args:
            image: see `encode_image`; None for no images.
            text: see `encode_text`; None for no texts.

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
        token. Nothing in the training asks for this. What is trained to agree with texts is the
        summary alone (the paper's equations 1 and 2). The adaptor's spatial head, on the other
        hand, imitates CLIP's own patch features (equation 3), which CLIP never compares with a
        text, and which mostly have another width than texts have: they are not used here, and
        `RadioModel.forward` returns them. So patches name what is in an image, and how well they
        say where it is depends on the model: measure it before relying on it. Of the bundled "toy"
        the patches repeat the summary of the whole image and do not tell its objects apart.

        The paper also found (figure 4) that features jump to another mode at high resolution, 720
        pixels there, likely because high resolutions were trained with SAM and not with CLIP.

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

        Raises:
            ValueError: text_features of another width, or as `encode_image_dense`.
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

        Raises:
            ValueError: no texts, one string in place of a list, or as `dense_similarity`.
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


def adaptor_specs(
    radio: RadioModel | ExportedModel,
) -> dict[str, AdaptorConfig] | dict[str, AdaptorCard]:
    """What is known of each adaptor, by name: `summary_dim` and `text_tower` among it."""
    if isinstance(radio, ExportedModel):
        return radio.adaptors
    return {spec.name: spec for spec in radio.config.adaptors}
