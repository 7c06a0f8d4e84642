"""Every kind of image file gives upright 8-bit RGB, every damaged one gives a reason."""

import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radio_core.data.images import UnreadableImage, load_rgb

RAMP = np.linspace(0, 255, 32 * 48).reshape(32, 48).astype(np.uint8)
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=-1)


def pixels(path: Path) -> np.ndarray:
    image = load_rgb(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "a.JPEG", "a.webp", "a.gif"])
def test_every_format(tmp_path: Path, name: str) -> None:
    path = save(Image.fromarray(COLOURS), tmp_path / name)
    assert np.abs(pixels(path).astype(int) - COLOURS).mean() < 12


@pytest.mark.parametrize("grey", [RAMP, RAMP > 127, RAMP[:1, :1]])
def test_grey_is_repeated_whatever_the_name_says(tmp_path: Path, grey: np.ndarray) -> None:
    save(Image.fromarray(grey), tmp_path / "a.png").rename(tmp_path / "a.jpg")
    white = 255 if grey.dtype == bool else 1
    assert (pixels(tmp_path / "a.jpg") == white * grey[..., None].astype(int)).all()


def test_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    red = Image.new("RGB", (16, 16), (220, 30, 30))
    got = pixels(save(red.convert("CMYK"), tmp_path / "a.jpg", quality=95))
    assert np.abs(got.astype(int) - (220, 30, 30)).max() < 12


def test_palette_without_and_with_transparency(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 2))
    palette.putpalette([200, 10, 10, 10, 200, 10])
    palette.putpixel((1, 0), 1)
    plain = pixels(save(palette, tmp_path / "plain.png"))
    assert plain[0, 0].tolist() == [200, 10, 10]
    assert plain[0, 1].tolist() == [10, 200, 10]
    clear = pixels(save(palette, tmp_path / "clear.png", transparency=0))
    assert clear[0, 0].tolist() == [255, 255, 255]
    assert clear[0, 1].tolist() == [10, 200, 10]


@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (255, 100), (128, 177)])
def test_alpha_is_composited_on_white(tmp_path: Path, alpha: int, expected: int) -> None:
    rgba = save(Image.new("RGBA", (3, 3), (100, 100, 100, alpha)), tmp_path / "rgba.png")
    grey = save(Image.new("LA", (3, 3), (100, alpha)), tmp_path / "la.png")
    assert pixels(rgba)[1, 1].tolist() == [expected] * 3
    assert pixels(grey)[1, 1].tolist() == [expected] * 3


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    deep = np.linspace(0, 65535, 256 * 4).reshape(4, 256).astype(np.uint16)
    got = pixels(save(Image.fromarray(deep), tmp_path / name))
    assert (got[..., 0] == np.rint(deep / 257)).all()
    assert len(np.unique(got)) == 256


def test_float_and_32_bit_tiff(tmp_path: Path) -> None:
    unit = np.linspace(0, 1, 64).reshape(8, 8).astype(np.float32)
    got = pixels(save(Image.fromarray(unit), tmp_path / "unit.tif"))
    assert (got[..., 0] == np.rint(unit * 255)).all()
    wide = (np.arange(64).reshape(8, 8) * 1000 - 5000).astype(np.int32)
    got = pixels(save(Image.fromarray(wide), tmp_path / "wide.tif"))
    assert (got.min(), got.max()) == (0, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_exif_orientation(tmp_path: Path, name: str, orientation: int) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 250  # white in the top left corner, as people see it
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(stored))
    got = pixels(
        save(picture, tmp_path / name, exif=exif, **({"quality": 95} if "j" in name else {}))
    )
    assert got.shape == upright.shape
    assert np.abs(got.astype(int) - upright).max() < 30
    as_stored = np.asarray(load_rgb(tmp_path / name, upright=False))
    assert as_stored.shape == stored.shape
    assert np.abs(as_stored.astype(int) - stored).max() < 30


def test_damaged_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    broken = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01\x12\x00\x03"
    path = save(Image.fromarray(COLOURS), tmp_path / "a.jpg", exif=broken)
    assert pixels(path).shape == COLOURS.shape


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixels(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


def reason(path: Path, **options: int) -> str:
    with pytest.raises(UnreadableImage) as caught:
        load_rgb(path, **options)
    assert caught.value.path == path
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_reasons_of_simple_damage(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert reason(tmp_path / "empty.jpg") == "empty file"
    assert reason(tmp_path / "text.jpg") == "not an image"
    assert reason(tmp_path / "folder.jpg") == "not a file"
    assert reason(tmp_path / "dangling.jpg").startswith("missing")
    assert reason(tmp_path / "pipe.jpg") == "not a file"
    assert reason(tmp_path / "script.png") == "not an image"


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.gif", "a.bmp", "a.tif", "a.ppm"])
def test_truncation_at_every_length(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = save(Image.fromarray(noise), tmp_path / name).read_bytes()
    cut = tmp_path / f"cut-{name}"
    for share in (0.02, 0.2, 0.5, 0.9):
        cut.write_bytes(whole[: int(len(whole) * share)])
        assert reason(cut).split(":")[0] in ("truncated", "broken", "not an image")


def test_flipped_bytes_never_escape(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "a.png", "a.webp", "a.gif", "a.tif", "a.bmp"):
        whole = save(Image.fromarray(COLOURS), tmp_path / name).read_bytes()
        for _ in range(30):
            damaged = bytearray(whole)
            for position in rng.integers(0, len(whole), 4):
                damaged[position] = int(rng.integers(256))
            (tmp_path / name).write_bytes(damaged)
            try:
                load_rgb(tmp_path / name)
            except UnreadableImage as error:
                assert error.reason  # noqa: PT017


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 60_000])
def test_decompression_bomb(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(side, side))
    assert reason(tmp_path / "bomb.png").startswith("too large")


def test_pixel_limit_is_inclusive(tmp_path: Path) -> None:
    path = save(Image.fromarray(COLOURS), tmp_path / "a.png")
    assert load_rgb(path, max_pixels=32 * 48).size == (48, 32)
    assert reason(path, max_pixels=32 * 48 - 1).startswith("too large: 48 x 32")


def test_closed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(Image.fromarray(COLOURS), tmp_path / "a.png")

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)  # chmod would not stop root
    assert reason(path) == "permission denied"


def test_error_survives_pickling_and_odd_names() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImage("a/\udcff.png", "empty file")))
    assert error.reason == "empty file"
    str(error).encode("utf-8")
