"""The image encoder of a RADIO-SAM as a file, and such files inside Segment Anything models."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from radio_core import __version__
from radio_core.export.card import Engine, ExportCard
from radio_core.export.exportable import Exportable
from radio_core.models.radio import RadioModel
from radio_sam.load import ORIGINAL, TOY_SAM, load_radio_sam
from radio_sam.swap import RadioImageEncoder, input_width, with_encoder

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

PURPOSE = "sam"
OUTPUT = "image_embeddings"
"""Name of the output, under which SAM's own exported decoder takes it."""


class _Embeddings(nn.Module):
    def __init__(self, encoder: RadioImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Images [B, 3, *image_size] from `Sam.preprocess` to ([B, D, *grid_size],)."""
        return (self.encoder(images).float(),)


def sam_exportable(
    model: RadioModel, name: str, source: str = "", size: tuple[int, int] | None = None
) -> Exportable:
    """RADIO with SAM's neck, to be exported: what `Sam.preprocess` gives to image embeddings.

    Args:
        model: with a `sam` adaptor, in float32.
        name: of the model, for people.
        source: whose neck it is, as `load_radio_sam` takes it; "toy-sam" if empty.
        size: (height, width) of the padded input in pixels; None for SAM's own.
    """
    sam = load_radio_sam(model, source or TOY_SAM, PURPOSE, image_size=size)
    encoder = sam.image_encoder
    assert isinstance(encoder, RadioImageEncoder)
    cell = encoder.image_size[0] // encoder.grid_size[0]
    with torch.no_grad():
        width = encoder.neck(torch.zeros(1, input_width(encoder.neck), 1, 1)).shape[1]
    card = ExportCard(
        name=name,
        toolkit=__version__,
        purpose=PURPOSE,
        outputs=(OUTPUT,),
        patch_size=cell,
        resolution_step=cell,
        fixed_size=encoder.image_size,
        embed_dim=width,
        window_size=model.window_size,
        licence=model.config.licence,
    )
    return Exportable(module=_Embeddings(encoder).eval(), card=card)


class ExportedImageEncoder(nn.Module):
    """An exported encoder in the place of SAM's; `img_size` is the longer side of `image_size`."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        card = engine.card
        if card.purpose != PURPOSE or card.fixed_size is None:
            raise ValueError(
                f"{card.name or 'this file'} holds no image encoder of a Segment Anything: write "
                f"one by `radio export onnx MODEL FILE --for {PURPOSE}=SAM`"
            )
        self.engine = engine
        self.image_size = card.fixed_size
        self.grid_size = tuple(side // card.patch_size for side in card.fixed_size)
        self.img_size = max(card.fixed_size)

    @property
    def device(self) -> torch.device:
        """Where it computes; images may be anywhere."""
        return self.engine.device

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, *image_size] from `Sam.preprocess` to embeddings [B, D, *grid_size]."""
        if tuple(images.shape[-2:]) != self.image_size:
            raise ValueError(
                f"images are {tuple(images.shape[-2:])} pixels, but this encoder takes "
                f"{self.image_size}: pad them with Sam.preprocess"
            )
        return self.engine.run(images.float())[OUTPUT].to(images.device, images.dtype)


def exported_sam(encoder: ExportedImageEncoder, sam: str = TOY_SAM) -> "Sam":
    """The Segment Anything `sam` (see `load_radio_sam`) around an exported encoder."""
    rows, cols = encoder.grid_size
    given = load_radio_sam(ORIGINAL, sam, device=encoder.device)
    return with_encoder(given, encoder, encoder.image_size, (rows, cols))
