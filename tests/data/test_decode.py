"""Decoding: every kind of image becomes an upright RGB one, and large JPEGs are decoded no larger than needed."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from kd_lightning.data.decode import UnreadableError, as_tensor, center_square, crop_resized, dimensions, open_rgb

TURNED = 6  # EXIF: to be rotated by 90 degrees clockwise


def encoded(image: Image.Image, kind: str, orientation: int = 1, **kwargs: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = BytesIO()
    image.save(content, kind, **({"exif": exif} if orientation > 1 else {}), **kwargs)
    return content.getvalue()


def waves(width: int, height: int) -> Image.Image:
    """A smooth image that looks different everywhere."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    channels = [np.sin(9 * x + 4 * y), np.cos(7 * y - 3 * x), np.sin(12 * x * y)]
    return Image.fromarray((127.5 + 120 * np.stack(channels, -1)).astype(np.uint8))


def pixel(source: Path | bytes, x: int = 0, y: int = 0) -> tuple[int, ...]:
    image = open_rgb(source)
    assert image.mode == "RGB"
    return image.getpixel((x, y))


def test_gray_and_transparent_images() -> None:
    images = [("1", 1, (255, 255, 255)), ("L", 77, (77, 77, 77)), ("LA", (77, 0), (77, 77, 77))]
    for mode, color, expected in [*images, ("RGBA", (10, 20, 30, 0), (10, 20, 30))]:
        assert pixel(encoded(Image.new(mode, (3, 2), color), "PNG")) == expected


def test_palette_cmyk_and_animated_images() -> None:
    palette = Image.new("P", (3, 2), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    assert pixel(encoded(palette, "PNG")) == pixel(encoded(palette, "PNG", transparency=1)) == (200, 100, 50)
    cmyk = pixel(encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG"))
    assert np.abs(np.subtract(cmyk, (0, 255, 255))).max() <= 3
    red, blue = (Image.new("RGB", (4, 4), color) for color in ("red", "blue"))
    assert pixel(encoded(red, "GIF", save_all=True, append_images=[blue])) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_to_8_and_not_clipped(kind: str) -> None:
    deep = np.array([[0, 256, 257, 1000, 32896, 65535]], np.uint16)
    image = open_rgb(encoded(Image.fromarray(deep), kind))
    assert np.array(image).tolist() == [[[v] * 3 for v in (0, 0, 1, 3, 128, 255)]]


def corners(orientation: int, kind: str, mode: str = "RGB") -> bytes:
    """16x8, its upper left pixels white, otherwise black."""
    pixels = np.zeros((8, 16), np.uint16)
    pixels[:4, :4] = 65535
    image = Image.fromarray(pixels if mode == "I;16" else (pixels // 257).astype(np.uint8))
    return encoded(image if mode == "I;16" else image.convert(mode), kind, orientation)


KINDS = [("JPEG", "RGB"), ("PNG", "RGB"), ("WEBP", "RGB"), ("TIFF", "RGB"), ("TIFF", "I;16"), ("PNG", "I;16")]


@pytest.mark.parametrize(("kind", "mode"), KINDS)
def test_what_the_camera_says_about_rotation_is_done(kind: str, mode: str) -> None:
    source = corners(TURNED, kind, mode)
    assert open_rgb(source).size == (8, 16)
    assert pixel(source, 6, 1)[0] > 200
    assert pixel(source, 1, 1)[0] < 50
    assert as_tensor(center_square(source, 8)).shape == (3, 8, 8)


@pytest.mark.parametrize(("kind", "mode"), KINDS)
def test_dimensions_are_the_upright_ones(kind: str, mode: str) -> None:
    assert dimensions(corners(TURNED, kind, mode)) == (8, 16)
    assert dimensions(corners(3, kind, mode)) == dimensions(corners(1, kind, mode)) == (16, 8)


def test_a_single_pixel() -> None:
    source = encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG")
    assert dimensions(source) == (1, 1)
    for image in (
        center_square(source, 5, 0.875),
        crop_resized(source, 5, (0, 0, 1, 1), (1, 1), Image.Resampling.BILINEAR),
    ):
        assert np.array(image).reshape(-1, 3).tolist() == [[9, 8, 7]] * 25


def test_what_cannot_be_read_is_named_unreadable(tmp_path: Path) -> None:
    sources = {"text.jpg": b"I am a text\n", "empty.png": b"", "torn.jpg": encoded(waves(64, 64), "JPEG")[:-300]}
    sources["float.tif"] = encoded(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF")
    for name, content in sources.items():
        (tmp_path / name).write_bytes(content)
        for source in (content, tmp_path / name):
            with pytest.raises(UnreadableError, match=r".+"):
                center_square(source, 4)
    assert dimensions(sources["torn.jpg"]) == (64, 64)
    for source in (sources["text.jpg"], b"", tmp_path / "missing.png"):
        with pytest.raises(UnreadableError, match=r".+"):
            dimensions(source)


def test_a_broken_avif_is_unreadable() -> None:
    with pytest.raises(UnreadableError):
        open_rgb(encoded(waves(64, 64), "AVIF").replace(b"pitm", b"xxxx"))


@pytest.mark.parametrize(("width", "height"), [(90, 60), (61, 97), (50, 50), (400, 31)])
@pytest.mark.parametrize("ratio", [1.0, 0.875])
def test_the_middle_is_torchvisions(width: int, height: int, ratio: float) -> None:
    image = waves(width, height)
    resize = v2.Resize(round(28 / ratio), v2.InterpolationMode.BICUBIC, antialias=True)
    expected = as_tensor(v2.CenterCrop(28)(resize(image))).int()
    difference = (as_tensor(center_square(encoded(image, "PNG"), 28, ratio)).int() - expected).abs()
    assert (difference <= 2).float().mean() > 0.9
    assert difference.max() <= 24


def test_a_crop_of_a_large_jpeg_is_decoded_small(monkeypatch: pytest.MonkeyPatch) -> None:
    image = waves(1603, 1201)
    source, decoded = encoded(image, "JPEG", quality=95), []
    crop = Image.Image.crop
    monkeypatch.setattr(Image.Image, "crop", lambda self, box: (decoded.append(self.size), crop(self, box))[1])
    for box, shrink in (((0, 0, 1603, 1201), 8), ((200.5, 100.2, 1100.3, 1000), 8), ((300, 300, 500, 500), 2)):
        small = as_tensor(crop_resized(source, 96, box, dimensions(source), Image.Resampling.BICUBIC)).float()
        assert decoded.pop() == (-(-1603 // shrink), -(-1201 // shrink))
        full = as_tensor(open_rgb(source).resize((96, 96), Image.Resampling.BICUBIC, box)).float()
        assert torch.nn.functional.l1_loss(small, full) < 2
    crop_resized(source, 96, (7, 7, 120, 120), dimensions(source), Image.Resampling.BICUBIC)
    assert decoded == [(1603, 1201)]
    sides = {least: open_rgb(source, least_side=least).size for least in (100, 200, 600, 601, 0)}
    assert sides == {100: (201, 151), 200: (401, 301), 600: (802, 601), 601: (1603, 1201), 0: (1603, 1201)}
    middle = as_tensor(center_square(source, 56)).float()
    expected = as_tensor(center_square(encoded(image, "PNG"), 56)).float()
    assert torch.nn.functional.l1_loss(middle, expected) < 2
