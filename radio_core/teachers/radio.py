"""RADIO itself behind the contract of all models: its backbone, or one of its adaptors."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from radio_core.models.radio import RadioModel
from radio_core.teachers.base import Teacher
from radio_core.teachers.licences import licence_of
from radio_core.vision import ModelSpec, Output
from radio_core.zoo.load import load_model

if TYPE_CHECKING:
    from radio_core.export.runtime import ExportedModel

DEFAULT_SIZE = 224
"""Side in pixels of the images for a model that does not say which it prefers."""
SAM_ADAPTOR = "sam"
"""Name of the adaptor whose features the neck of a Segment Anything takes."""


class RadioVision(Teacher):
    """Summary and features of the backbone, or of the adaptor that is named.

    Texts are compared with that adaptor, or with the first that has a text tower where the
    backbone is asked for.

    Args:
        name: name of the model.
        radio: the model, which is put into eval mode and goes on sharing its weights; or a file
            that `radio export` wrote.
        adaptor: whose outputs; the backbone's if empty.

    Raises:
        ValueError: the model has no such adaptor, or its features are no map.
    """

    def __init__(self, name: str, radio: "RadioModel | ExportedModel", adaptor: str = "") -> None:
        wanted = radio.check_adaptors((adaptor,) if adaptor else ())
        if isinstance(radio, RadioModel):
            radio.eval()
            heads: dict[str, Any] = {head.name: head for head in radio.config.adaptors}
            licence, windows = radio.config.licence, radio.config.supports_windows
            self.config = repr(radio.config)
            if radio.config.backbone.feature_start is not None:
                raise ValueError(f"{name}: the features of this model hold other tokens too")
        else:
            heads, licence, windows = dict(radio.adaptors), "", False
            self.config = repr(radio.card)
        head = heads.get(adaptor)
        upsample = 1 if head is None else head.upsample
        if radio.patch_size % upsample:
            raise ValueError(
                f"{name}: {upsample} features a patch of {radio.patch_size} pixels are not a "
                "whole number of pixels each"
            )
        side = min(radio.preferred_resolution or (DEFAULT_SIZE,))
        height, width = radio.nearest_supported_resolution(side, side)
        if height != width:
            raise ValueError(
                f"{name} takes images of {height}x{width} pixels only; export it for a square"
            )
        # Other sides far from its own that it takes as they are: it is not built for one size.
        step = radio.min_resolution_step
        flexible = tuple(radio.nearest_supported_resolution(5 * step, 7 * step)) == (
            5 * step,
            7 * step,
        )
        texts = [name for name, head in heads.items() if head.text_tower and head.summary_dim]
        self._text = next((n for n in texts if n == adaptor or not adaptor), "")
        super().__init__(
            ModelSpec(
                name=name,
                input_size=height,
                patch_size=radio.patch_size // upsample,
                summary_dim=radio.summary_dim if head is None else head.summary_dim,
                feature_dim=radio.embed_dim if head is None else head.feature_dim,
                licence=licence_of(name, licence).name,
                flexible=flexible,
                square=not flexible,
                size_step=step,
                max_size=radio.max_resolution,
                windows=windows,
                text=bool(self._text),
                sam=SAM_ADAPTOR in heads,
            )
        )
        self.radio, self._wanted, self._head = radio, wanted, adaptor or "backbone"

    @classmethod
    def load(cls, source: str, rest: str, input_size: int | None = None) -> "RadioVision":
        """Load whatever `radio_core.load_model` takes, with "#ADAPTOR" behind it for an adaptor.

        The backbone computes in float32, whatever the checkpoint names.
        """
        model, _, adaptor = rest.partition("#")
        teacher = cls(source, load_model(model, dtype=torch.float32), adaptor)
        teacher.freeze()
        return teacher

    def fingerprint(self) -> str:
        """SHA-256 over weights, buffers and structure, or the bytes of an exported file."""
        radio = self.radio
        weights = super().fingerprint() if isinstance(radio, RadioModel) else radio.fingerprint()
        about = f"{weights}\n{self._head} of {self.config} {radio.window_size}"
        return hashlib.sha256(about.encode()).hexdigest()

    def extract(self, images: Tensor) -> Output:
        """Summary [B, D] or None, features [B, C, h, w]; the model normalises by itself."""
        return self.radio.forward_all(images, self._wanted)[self._head]

    @torch.no_grad()
    def image_text(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Images as for the call -> [B, D] float32 in the space of the texts, not normalised."""
        images = self.sized(images, size)
        summary = self.radio.forward_all(images, (self._text,))[self._text].summary
        assert summary is not None  # text towers go with summaries
        return summary.float()

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """T texts -> [T, D] float32, not normalised."""
        return self.radio.encode_text(self._text, texts)

    @torch.no_grad()
    def sam_features(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] of a size that it takes -> [B, C, h, w] for the neck of a SAM."""
        return self.radio.forward_all(images, (SAM_ADAPTOR,))[SAM_ADAPTOR].features.float()
