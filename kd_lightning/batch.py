"""Batch: the images and labels that the data set passes to a method."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LARGEST_SIDE = 8192
"""Largest side of an image in pixels; a batch of larger images would fill the memory."""


class Batch(NamedTuple):
    """N images with their labels, and further values for the method.

    The images are not normalised. Each Network normalises its own input, because teacher and student may use different
    means and standard deviations.
    """

    images: Tensor
    """N,3,H,W: uint8, or float in [0, 1]."""
    labels: Tensor
    """N, int64: class of each image, or -1 for an image without a label."""
    indices: Tensor
    """N, int64: position of each image in the complete dataset, even if only a subset is used."""
    keys: Tensor
    """N, int64: hash of (seed, epoch, index) for each image. All random choices for the image derive from the hash."""
    views: tuple[Tensor, ...] = ()
    """Further views of the same images (`data.views`): tensors like `images`, each with its own augmentation."""
    partner_labels: Tensor | None = None
    """N, int64: class of the partner, the image that was mixed into each image (`data.mixing`). None without mixing."""
    mix_lambda: Tensor | None = None
    """N, float32: share of each image in its mixed image. The rest comes from the partner. None without mixing."""
    places: np.ndarray | None = None
    """N,3, int64: for each image, the epoch whose augmentations it has, its row in the split, and its number among its
    copies in the epoch. It is an array because it must stay on the host. `losses` does not get it."""


def image_count(batch: Batch) -> int:
    """Return the number of images of a batch, for the argument `batch_size_fn` of Lightning's ThroughputMonitor."""
    return len(batch.images)


def as_float(images: Tensor) -> Tensor:
    """Return images (uint8, or float in [0, 1]) as float32 in [0, 1]; float32 images are not copied."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()
