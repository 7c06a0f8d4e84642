"""Decode image files of any common kind into 8-bit RGB, or say why it cannot be done."""

import contextlib
import io
import os
import stat
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SAFE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Formats that Pillow decodes itself; EPS, which starts programs, is out. JPEG includes MPO."""

MAX_PIXELS = 89_478_485
"""Most pixels that an image may have: Pillow's own limit against decompression bombs."""

_WHITE = (255, 255, 255, 255)
_DAMAGED_METADATA = (OSError, ValueError, SyntaxError, TypeError, LookupError, struct.error)


class UnreadableImage(ValueError):
    """A file that is not a readable image.

    Attributes:
        path: the file.
        name: the file as it was named, which for a sample in a shard may hold an address.
        reason: why, as "kind" or "kind: detail", e.g. "truncated: 12 bytes are missing".
            The kinds are "missing", "permission denied", "not a file", "empty file",
            "not an image", "too large", "truncated" and "broken".
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)  # both, so that the error survives pickling
        self.path = Path(path)
        self.name = os.fspath(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{printable(self.name)}: {self.reason}"


def printable(path: str | os.PathLike[str]) -> str:
    """The path as text that every terminal takes: undecodable bytes become escapes."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode("utf-8")


def load_rgb(
    path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS, upright: bool = True
) -> Image.Image:
    """Read one image file as 8-bit RGB; whatever gives no image raises `UnreadableImage`.

    Grey, palette, CMYK and YCbCr images are converted. Alpha is
    composited on white, because the colours under transparent pixels mean nothing. 16-bit grey is
    scaled (65535 -> 255), not clipped; 32-bit integers that fit are read as 16-bit and floats
    within [0, 1] as such, others are stretched from their minimum to their maximum. Of an
    animation or a multi-page file the first picture is taken.

    Args:
        path: the file; its content decides the format, not its name.
        max_pixels: larger images are refused before they are decoded. Values above twice
            Pillow's own `Image.MAX_IMAGE_PIXELS` have no effect unless that is raised too.
        upright: apply the EXIF orientation; False where annotations count the stored pixels.
    """
    try:
        status = os.stat(path)
    except PermissionError as error:
        raise UnreadableImage(path, "permission denied") from error
    except (OSError, ValueError) as error:
        raise UnreadableImage(path, f"missing: {_one_line(error)}") from error
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would block for ever
        raise UnreadableImage(path, "not a file")
    if status.st_size == 0:
        raise UnreadableImage(path, "empty file")
    return _decode(path, path, max_pixels, upright)


def decode_rgb(
    data: bytes, name: str | os.PathLike[str], max_pixels: int = MAX_PIXELS, upright: bool = True
) -> Image.Image:
    """Read the content of an image file as 8-bit RGB, as `load_rgb` reads a file."""
    if not data:
        raise UnreadableImage(name, "empty file")
    return _decode(io.BytesIO(data), name, max_pixels, upright)


def _decode(
    source: str | os.PathLike[str] | io.BytesIO,
    path: str | os.PathLike[str],
    max_pixels: int,
    upright: bool,
) -> Image.Image:
    """Open and convert; `path` is what errors name."""
    try:
        with Image.open(source, formats=SAFE_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise UnreadableImage(
                    path, f"too large: {width} x {height} pixels, the limit is {max_pixels}"
                )
            image.load()
            turned: Image.Image = image
            if upright:
                with contextlib.suppress(*_DAMAGED_METADATA):  # the pixels are fine nevertheless
                    turned = ImageOps.exif_transpose(image)
            return _to_rgb(turned)
    except UnreadableImage:
        raise
    except PermissionError as error:
        raise UnreadableImage(path, "permission denied") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise UnreadableImage(path, f"too large: {_one_line(error)}") from error
    except UnidentifiedImageError as error:
        raise UnreadableImage(path, "not an image") from error
    except Exception as error:  # decoders raise nearly everything on hostile bytes
        kind = "truncated" if "truncated" in str(error).lower() else "broken"
        raise UnreadableImage(path, f"{kind}: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    """The error's text without line breaks or the file's name, or its type when it has none."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any decoded Pillow mode -> "RGB"; what happens to deep and clear pixels, see `load_rgb`."""
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)  # [H, W], 16-bit, 32-bit or float
        wide = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(wide.min()), float(wide.max())
        white = 1.0 if values.dtype.kind == "f" else 65535.0
        if low < 0 or high > white:
            wide, white = wide - low, high - low
        grey = np.rint(wide * (255.0 / white)).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, _WHITE), rgba).convert("RGB")
    return image.convert("RGB")
