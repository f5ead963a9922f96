"""Augmentations of whole batches on the device they lie on, each a function of the samples' keys alone."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.randomness import fold, integers, uniform


class Augmentation(ABC):
    """A random change of images that keeps their labels."""

    @abstractmethod
    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Changed images N,C,H,W of the same dtype; every random choice about one comes from its key (N int64)."""


class RandomCrop(Augmentation):
    """A crop of the images' own size at a random offset after padding, as torchvision's RandomCrop(size, padding).

    Args:
        padding: pixels added on each side.
        mode: what fills them: zeros, or the image mirrored at its border.
    """

    def __init__(self, padding: int = 4, mode: Literal["zero", "reflect"] = "zero") -> None:
        if padding < 1:
            raise ConfigError(f"padding: {padding} is not positive; leave RandomCrop out for no crop")
        self.padding, self.mode = padding, mode

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        pad, (height, width) = self.padding, images.shape[-2:]
        if self.mode == "zero":
            padded = F.pad(images, (pad, pad, pad, pad))
        else:  # reflection is not defined for uint8
            padded = F.pad(images.float(), (pad, pad, pad, pad), mode="reflect").to(images.dtype)
        down = torch.arange(height, device=images.device) + integers(keys, 2 * pad + 1, 0)[:, None]
        right = torch.arange(width, device=images.device) + integers(keys, 2 * pad + 1, 1)[:, None]
        sample = torch.arange(len(images), device=images.device)[:, None, None]
        # advanced indices on both sides of a slice put the channels last
        return padded[sample, :, down[:, :, None], right[:, None, :]].permute(0, 3, 1, 2).contiguous()


class HorizontalFlip(Augmentation):
    """Left and right exchanged with a probability.

    Args:
        probability: of the exchange.
    """

    def __init__(self, probability: float = 0.5) -> None:
        if not 0 <= probability <= 1:
            raise ConfigError(f"probability: {probability} is not in [0, 1]")
        self.probability = probability

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        flipped = uniform(keys) < self.probability
        return torch.where(flipped[:, None, None, None], images.flip(-1), images)


def augment(images: Tensor, keys: Tensor, augmentations: list[Augmentation]) -> Tensor:
    """The augmentations one after another, each with keys of its own."""
    for position, augmentation in enumerate(augmentations):
        images = augmentation(images, fold(keys, position))
    return images
