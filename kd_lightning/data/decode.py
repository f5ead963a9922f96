"""Decode image files of any kind to RGB."""

from io import BytesIO
from math import ceil
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from kd_lightning.errors import one_line

Source = Path | bytes
Box = tuple[float, float, float, float]
"""left, top, right, bottom in pixels."""

_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, Image.DecompressionBombError)  # Pillow's
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")


class UnreadableError(ValueError):
    """Error for an image that cannot be decoded. The message is the reason."""


def open_rgb(source: Source, least_side: int = 0, shrink: float = 1.0) -> Image.Image:
    """Return an image file as an upright RGB image.

    Grayscale, palette, CMYK and transparent images are converted to RGB without transparency. Channels of 16 bits are
    converted to 8 bits. The first frame of an animation is used. The rotation in the EXIF data is applied.

    Args:
        source: Path of the file, or its content.
        least_side: Smallest number of pixels that the shorter side of the result needs. A larger JPEG is decoded at
            1/2, 1/4 or 1/8 of its size (libjpeg's draft mode) if this is enough. With 0, `shrink` is used instead.
        shrink: Factor by which the caller will reduce the image. A JPEG is decoded at a size that is reduced by at most
            this factor.

    Raises:
        UnreadableError: if the file is not an image, is truncated, or has floating-point pixels.
    """
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.mode == "F":
                raise UnreadableError("its pixels are floating-point numbers with an unknown range")
            factor = min(image.size) / least_side if least_side else shrink
            if factor >= 2:
                image.draft("RGB", (int(image.width / factor), int(image.height / factor)))
            upright = ImageOps.exif_transpose(image)
            if upright.mode in _DEEP:
                pixels = np.asarray(upright).astype(np.int64)
                upright = Image.fromarray((pixels.clip(0, 65535) // 257).astype(np.uint8))
            return upright.convert("RGB")
    except _UNREADABLE as error:
        raise UnreadableError(one_line(error)) from error


def dimensions(source: Source) -> tuple[int, int]:
    """Return width and height of the upright image, which are read from the header of the file.

    Raises:
        UnreadableError: if the header cannot be read.
    """
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            width, height = image.size
            # Pillow has already rotated a TIFF's size
            swapped = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (height, width) if swapped else (width, height)
    except _UNREADABLE as error:
        raise UnreadableError(one_line(error)) from error


def center_square(source: Source, size: int, crop_ratio: float = 1.0) -> Image.Image:
    """Resize the shorter side to size / crop_ratio (bicubic), then crop a square with side `size` at the centre."""
    resized = round(size / crop_ratio)
    image = open_rgb(source, least_side=2 * resized)
    side = min(image.size) * size / resized
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))


def crop_resized(source: Source, size: int, box: Box, full: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """Resize a box of an image to a square with side `size`. The box is in pixels of the `full` width and height."""
    width, height = full
    image = open_rgb(source, shrink=min(box[2] - box[0], box[3] - box[1]) / size)
    scale_x, scale_y = image.width / width, image.height / height  # below 1 if the JPEG was decoded at reduced size
    left, top, right, bottom = box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y
    x, y = int(left), int(top)
    cropped = image.crop((x, y, ceil(right), ceil(bottom)))  # pixels outside the box are ignored, as in torchvision
    return cropped.resize((size, size), resample, (left - x, top - y, right - x, bottom - y))


def as_tensor(image: Image.Image) -> Tensor:
    """Return an image as 3,H,W uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
