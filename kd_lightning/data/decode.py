"""Decode image files of any kind to RGB."""

from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kd_lightning.data.formats import Source, UnreadableError, opened, turn

Box = tuple[float, float, float, float]
"""left, top, right, bottom in pixels."""

_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_BITS_PER_SAMPLE = 258
"""Tag of a TIFF."""
_SWAPS_SIDES = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)


class Levels(NamedTuple):
    """Range of an image's pixel values, and the value of white."""

    lowest: int
    highest: int
    white: int
    bits: int
    """Bits per channel in the file: 8, or 16 for more than 8."""


def open_rgb(source: Source, least_side: int = 0, shrink: float = 1.0) -> Image.Image:
    """Return an image file as an upright RGB image.

    Grayscale, palette, CMYK and transparent images are converted to RGB without transparency. Channels of 12 or 16 bits
    are converted to 8 bits. The first frame of an animation is used. The rotation in the EXIF data is applied. Other
    metadata are ignored.

    Args:
        source: Path of the file, or its content.
        least_side: Smallest number of pixels that the shorter side of the result needs. A larger JPEG is decoded at
            1/2, 1/4 or 1/8 of its size (libjpeg's draft mode) if this is enough. With 0, `shrink` is used instead.
        shrink: Factor by which the caller will reduce the image. A JPEG is decoded at a size that is reduced by at most
            this factor.

    Raises:
        UnreadableError: if the file is not an image, is truncated, or has floating-point pixels.
    """
    with opened(source) as image:
        factor = min(image.size) / least_side if least_side else shrink
        if factor >= 2:
            image.draft("RGB", (int(image.width / factor), int(image.height / factor)))
        direction = turn(image)
        rgb = _shallow(image).convert("RGB")
        return rgb if direction is None else rgb.transpose(direction)


def _shallow(image: Image.Image) -> Image.Image:
    """Return an image with 8 bits per channel."""
    if image.mode == "F":
        pixels = np.asarray(image)
        values = f"{pixels.min():g} to {pixels.max():g} in this file"
        raise UnreadableError(f"its pixels are floating-point numbers with an unknown range ({values})")
    if image.mode not in _DEEP:
        return image
    pixels, white = _deep(image)
    return Image.fromarray((pixels * 255 // white).astype(np.uint8))


def _deep(image: Image.Image) -> tuple[np.ndarray, int]:
    """Return the pixels of a grayscale image with more than 8 bits, and the value of white."""
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE)
    white = 4095 if bits == (12,) else 65535
    pixels = np.asarray(image).astype(np.int32)
    if pixels.min() < 0 or pixels.max() > white:
        values = f"{pixels.min():,} to {pixels.max():,}"
        raise UnreadableError(
            f"its pixels have values from {values}, but only values from 0 to {white:,} are supported"
        )
    return pixels, white


def levels(source: Source) -> Levels:
    """Return the range of an image's pixel values; a large JPEG is decoded at reduced size for this.

    Raises:
        UnreadableError: as for `open_rgb`.
    """
    with opened(source) as image:
        image.draft("RGB", (512, 512))
        bits = 16 if ";16" in str(image.tile) else 8  # Pillow converts 16 bits per colour to 8
        if image.mode in _DEEP:
            pixels, white = _deep(image)
            return Levels(int(pixels.min()), int(pixels.max()), white, 16)
        lowest, highest = zip(*_shallow(image).convert("RGB").getextrema(), strict=True)
        return Levels(min(lowest), max(highest), 255, bits)


def dimensions(source: Source) -> tuple[int, int]:
    """Return width and height of the upright image, which are read from the header of the file.

    Raises:
        UnreadableError: if the header cannot be read.
    """
    with opened(source) as image:
        width, height = image.size
        return (height, width) if turn(image) in _SWAPS_SIDES else (width, height)


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
