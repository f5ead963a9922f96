"""Linear filters and resizing. SciPy and Pillow compute the matrices."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import Tensor

from kd_lightning.evaluation.corruptions.base import levels


def apply(images: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Map ...,H,W to ...,H',W' by matrices H',H and W',W. The computation is in float64 to limit rounding errors."""
    vertical, horizontal = (matrix.to(images.device) for matrix in (vertical, horizontal))
    return torch.matmul(vertical, torch.matmul(images.double(), horizontal.T))


def gaussian(images: Tensor, sigma: float, mode: str, truncate: float = 4.0) -> Tensor:
    """Blur images as scipy.ndimage.gaussian_filter (and scikit-image's gaussian) does, in float64.

    Args:
        images: ...,H,W.
        sigma: Standard deviation in pixels; 0 disables the blur.
        mode: SciPy's name of the boundary mode.
        truncate: Radius of the kernel in sigmas.
    """
    height, width = images.shape[-2:]
    return apply(images, _gaussian(height, sigma, mode, truncate), _gaussian(width, sigma, mode, truncate))


def zoom(images: Tensor, factor: float) -> Tensor:
    """Enlarge the centre of images N,C,H,W to their size by linear interpolation, in float64.

    As in the published code, scipy.ndimage.zoom (with align_corners) enlarges the central ceil(side / factor) pixels.
    The result is then cropped to the original size on both sides.
    """
    sides = images.shape[-2:]
    inner = [math.ceil(side / factor) for side in sides]
    enlarged = [round(length * factor) for length in inner]
    middle = _middle(images.double(), inner)
    return _middle(F.interpolate(middle, enlarged, mode="bilinear", align_corners=True), sides)


def _middle(images: Tensor, sides: Sequence[int]) -> Tensor:
    top, left = ((size - target) // 2 for size, target in zip(images.shape[-2:], sides, strict=True))
    return images[..., top : top + sides[0], left : left + sides[1]]


def pillow_box(images: Tensor, height: int, width: int) -> Tensor:
    """Resize uint8 images like Pillow with BOX. Values are rounded after the rows and again after the columns."""
    horizontal = _box(images.shape[-1], width).to(images.device)
    vertical = _box(images.shape[-2], height).to(images.device)
    narrow = levels(torch.matmul(images.double(), horizontal.T) + 0.5)
    return levels(torch.matmul(vertical, narrow.double()) + 0.5)


@lru_cache(maxsize=64)
def _gaussian(side: int, sigma: float, mode: str, truncate: float) -> Tensor:
    if sigma == 0:
        return torch.eye(side, dtype=torch.float64)
    return torch.from_numpy(ndimage.gaussian_filter1d(np.eye(side), sigma, axis=0, mode=mode, truncate=truncate))


@lru_cache(maxsize=64)
def _box(side: int, out: int) -> Tensor:
    rows = Image.fromarray(np.eye(side, dtype=np.float32)).resize((out, side), Image.Resampling.BOX)
    return torch.from_numpy(np.array(rows, dtype=np.float64).T.copy())
