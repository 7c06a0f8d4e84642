"""Segment Anything models behind the contract of all models, and the Sam that is behind a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from radio_core.export.runtime import SUFFIXES, open_engine
from radio_core.models.fingerprint import files_fingerprint, weights_fingerprint
from radio_core.models.radio import RadioModel
from radio_core.open import RADIO, open_model
from radio_core.vision import CentreCrop, ModelSpec, Output, VisionModel, check_images
from radio_sam.export import PURPOSE, ExportedImageEncoder, exported_sam
from radio_sam.load import ORIGINAL, TOY_SAM, load_radio_sam
from radio_sam.swap import ImageSize

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


class SamVision:
    """A whole Segment Anything as a `VisionModel`, also one with an exported encoder.

    Its features are the embeddings behind the neck, at its own size alone.

    Args:
        name: of the model.
        sam: the model, its encoder swapped, exported or as it is.
        files: what belongs to it besides its weights: those of an exported encoder.
    """

    crop: CentreCrop | None = None

    def __init__(self, name: str, sam: "Sam", files: Sequence[Path] = ()) -> None:
        self.sam, self._files = sam, files
        height, _ = sam.prompt_encoder.input_image_size
        self.spec = ModelSpec(
            name=name,
            input_size=int(sam.image_encoder.img_size),
            patch_size=height // sam.prompt_encoder.image_embedding_size[0],
            summary_dim=None,
            feature_dim=int(sam.prompt_encoder.embed_dim),
            sam=True,
        )

    @property
    def device(self) -> torch.device:
        """Where it computes, and expects its images."""
        device: torch.device = self.sam.device
        return device

    @torch.no_grad()
    def __call__(self, images: Tensor, size: tuple[int, int] | None = None) -> Output:
        """No summary, and image embeddings [B, D, h, w]; see `VisionModel.__call__`."""
        check_images(images, step=1)
        sides = self.spec.checked_size(size)
        images = F.interpolate(images, sides, mode="bilinear", antialias=True).clamp(0, 1)
        return Output(None, self.sam.image_encoder(self.sam.preprocess(255 * images)))

    def fingerprint(self) -> str:
        """SHA-256 over weights, and over the files of an exported encoder."""
        files = files_fingerprint(*self._files) if self._files else ""
        return weights_fingerprint(self.sam) + files


def open_sam(source: str, sam: str = TOY_SAM, device: str | torch.device = "cpu") -> VisionModel:
    """Open a model that `sam_of` can put into a Segment Anything.

    Args:
        source: as `radio_core.open.open_model` takes it; "sam" for SAM's own encoder; or a file
            that `radio export ... --for sam=SAM` wrote.
        sam: for the latter two, the SAM, as `load_radio_sam` takes it.
        device: where it goes.

    Raises:
        ValueError: nothing of that name; the known forms are listed.
    """
    if source == ORIGINAL:
        return SamVision(ORIGINAL, load_radio_sam(ORIGINAL, sam, device=device))
    path = source.removeprefix(RADIO)
    if path.endswith(SUFFIXES):
        engine = open_engine(path, device)
        encoder = ExportedImageEncoder(engine)
        return SamVision(Path(path).name, exported_sam(encoder, sam), engine.files)
    return open_model(source, device=device)


def sam_of(
    model: VisionModel,
    sam: str = TOY_SAM,
    adaptor: str = PURPOSE,
    window_size: int | None = None,
    image_size: ImageSize | None = None,
    skip_padding: bool = False,
) -> "Sam":
    """The Segment Anything of a model: itself, or one with a RADIO model inside.

    Args:
        model: a RADIO model with a `sam` adaptor (`RadioVision`), or a Segment Anything
            (`SamTeacher`, `SamVision`, or any model that has one as its attribute `sam`).
        sam: whose neck and mask decoder serve a RADIO model; see `load_radio_sam`.
        adaptor: see `swap_image_encoder`, as the next three.

    Raises:
        ValueError: a model of another kind, or options that it does not have.
    """
    whole: Sam | None = getattr(model, "sam", None)
    if whole is not None:
        if window_size is not None or image_size is not None or skip_padding:
            raise ValueError(
                f"{model.spec.name} is a whole Segment Anything: it takes no window_size, "
                "image_size or skip_padding"
            )
        return whole
    radio = getattr(model, "radio", None)
    if not isinstance(radio, RadioModel):
        raise ValueError(
            f"{model.spec.name} cannot be put into a Segment Anything: name a RADIO model with a "
            f"{adaptor} adaptor, or export one with --for {PURPOSE}=SAM"
        )
    return load_radio_sam(radio, sam, adaptor, window_size, image_size, skip_padding)
