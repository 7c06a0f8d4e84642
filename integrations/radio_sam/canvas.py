"""A Sam whose padded input is no square; needs the package segment_anything."""

import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor


class CanvasSam(Sam):  # type: ignore[misc]
    """SAM on a canvas of any (height, width); what it overrides assumes a square.

    Images must fit: one that `SamPredictor` brings to the longer side of the canvas may be too
    high or too wide. The canvas is the encoder's `image_size`.
    """

    def preprocess(self, x: Tensor) -> Tensor:
        """Normalise [..., 3, h, w] in 0-255 and pad it to the canvas.

        Raises:
            ValueError: the image is larger than the canvas.
        """
        height, width = self.image_encoder.image_size
        missing_rows, missing_cols = height - x.shape[-2], width - x.shape[-1]
        if missing_rows < 0 or missing_cols < 0:
            raise ValueError(
                f"an image of {x.shape[-2]}x{x.shape[-1]} pixels does not fit into this model's "
                f"{height}x{width}: encode it with radio_sam.encode_images, which makes it "
                "smaller, or give swap_image_encoder a square image_size"
            )
        return F.pad((x - self.pixel_mean) / self.pixel_std, (0, missing_cols, 0, missing_rows))

    def postprocess_masks(
        self, masks: Tensor, input_size: tuple[int, ...], original_size: tuple[int, ...]
    ) -> Tensor:
        """Logits [B, M, 4 * rows, 4 * cols] to [B, M, *original_size], without the padding."""
        masks = F.interpolate(
            masks, self.image_encoder.image_size, mode="bilinear", align_corners=False
        )
        masks = masks[..., : input_size[0], : input_size[1]]
        return F.interpolate(masks, original_size, mode="bilinear", align_corners=False)
