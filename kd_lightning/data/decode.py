"""One file to one RGB image, whatever kind of image it is."""

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
    """An image that cannot be decoded; the message says why."""


def open_rgb(source: Source, least_side: int = 0, shrink: float = 1.0) -> Image.Image:
    """A file, or its bytes, as an upright RGB image.

    Grayscale, palette, CMYK and images with transparency (which is dropped) become RGB, 16 bits a channel become 8,
    an animation is its first frame, and what the camera's EXIF says about rotation is done.

    Args:
        source: the file, or its content.
        least_side: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size (libjpeg's draft mode) where its shorter side
            stays at this; 0: at its full size.
        shrink: likewise, where it is to be made smaller by this factor at least.

    Raises:
        UnreadableError: for anything that is no image, is cut off, or has floating-point pixels.
    """
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.mode == "F":
                raise UnreadableError("its pixels are floating-point numbers of unknown range")
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
    """Width and height of the upright image, read from its header.

    Raises:
        UnreadableError: if it has none.
    """
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            width, height = image.size
            # Pillow gives a TIFF's size turned already
            turned = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (height, width) if turned else (width, height)
    except _UNREADABLE as error:
        raise UnreadableError(one_line(error)) from error


def center_square(source: Source, size: int, crop_ratio: float = 1.0) -> Image.Image:
    """The middle of an image: its shorter side resized to size / crop_ratio (bicubic), then cut to `size` squared."""
    resized = round(size / crop_ratio)
    image = open_rgb(source, least_side=2 * resized)
    side = min(image.size) * size / resized
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))


def crop_resized(source: Source, size: int, box: Box, full: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """A box of an image, given in pixels of its full width and height, resized to `size` squared."""
    width, height = full
    image = open_rgb(source, shrink=min(box[2] - box[0], box[3] - box[1]) / size)
    across, down = image.width / width, image.height / height  # below 1 where the draft is smaller
    left, top, right, bottom = box[0] * across, box[1] * down, box[2] * across, box[3] * down
    x, y = int(left), int(top)
    cut = image.crop((x, y, ceil(right), ceil(bottom)))  # pixels outside the box do not count, as in torchvision
    return cut.resize((size, size), resample, (left - x, top - y, right - x, bottom - y))


def as_tensor(image: Image.Image) -> Tensor:
    """3,H,W uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
