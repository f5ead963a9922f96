"""What flows from the data to the methods."""

from typing import NamedTuple

import torch
from torch import Tensor

LARGEST_SIDE = 8192
"""Pixels of an image's side; above, one batch would fill the memory."""


class Batch(NamedTuple):
    """N images with all that a method may ask about them.

    Images are not normalised: every Network does that for itself, so that teacher and student may differ in it.
    """

    images: Tensor
    """N,3,H,W: uint8, or float in [0, 1]."""
    labels: Tensor
    """N, int64: the class, -1 where there is no label."""
    indices: Tensor
    """N, int64: the sample's position in its dataset, whatever subset is in use."""
    keys: Tensor
    """N, int64: hash of (seed, epoch, index); every random choice about the sample derives from it."""
    views: tuple[Tensor, ...] = ()
    """Further views of the same images (`data.views`), each like `images` and augmented for itself."""
    partner_labels: Tensor | None = None
    """N, int64: the class of the image that was mixed into each one (`data.mixing`); None where none was."""
    mix_lambda: Tensor | None = None
    """N, float32: what share of each mixed image is its own, the rest being its partner's."""


def as_float(images: Tensor) -> Tensor:
    """Images, uint8 or float in [0, 1], as float32 in [0, 1]; what is float32 already is not copied."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()
