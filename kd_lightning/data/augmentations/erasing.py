"""Augmentations that erase rectangles."""

from typing import Literal

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from kd_lightning.batch import as_float
from kd_lightning.data.augmentations.base import (
    Augmentation,
    apply_to_selected,
    check_probability,
    check_range,
    drawn,
    sizes,
)
from kd_lightning.errors import ConfigError
from kd_lightning.randomness import fold_in, integers, normal, uniform


def _inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return a bool mask N,1,H,W of the pixels inside the boxes N,4 (left, top, right, bottom)."""
    x, y = torch.arange(width, device=boxes.device), torch.arange(height, device=boxes.device)
    left, top, right, bottom = (edge[:, None] for edge in boxes.unbind(1))
    return (((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :])[:, None]


class RandomErasing(Augmentation):
    """Erases a random rectangle with a probability (Zhong et al. 2017), as RandomErasing in torchvision and timm.

    Args:
        probability: Probability of erasing.
        scale: Smallest and largest share of the image's area.
        ratio: Smallest and largest ratio of the height to the width.
        fill: Colour of the rectangle: `black`, `mean` (ImageNet's mean), or `noise` (normal noise around the mean in
            every pixel). timm calls the noise `pixel`, and adds it after the normalisation. Here the noise is added
            before the normalisation and clamped to [0, 1].
    """

    def __init__(
        self,
        probability: float = 0.25,
        scale: tuple[float, float] = (0.02, 1 / 3),
        ratio: tuple[float, float] = (0.3, 1 / 0.3),
        fill: Literal["black", "mean", "noise"] = "noise",
    ) -> None:
        check_range("scale", *scale, minimum=0.0, maximum=1.0)
        check_range("ratio", *ratio, minimum=1e-6)
        self.probability, self.scale, self.ratio, self.fill = check_probability(probability), scale, ratio, fill

    def boxes(self, keys: Tensor, height: int, width: int) -> Tensor:
        """Return boxes N,4 (left, top, right, bottom). A box is empty if none of its ten tries fits into the image."""
        tries = fold_in(keys[:, None], torch.arange(10, device=keys.device))
        tall, wide = sizes(tries, height * width, self.scale, self.ratio)
        fits = (tall < height) & (wide < width)
        first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
        tall, wide = ((x * fits).gather(1, first)[:, 0] for x in (tall, wide))
        left = torch.floor(uniform(keys, 1) * (width - wide + 1))
        top = torch.floor(uniform(keys, 2) * (height - tall + 1))
        return torch.stack([left, top, left + wide, top + tall], dim=1)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        return apply_to_selected(as_float(images), drawn(keys, self.probability), self._erase, keys)

    def _erase(self, images: Tensor, keys: Tensor) -> Tensor:
        channels, height, width = images.shape[1:]
        channelwise = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in channelwise)
        filling = torch.zeros_like(images) if self.fill == "black" else mean.expand_as(images)
        if self.fill == "noise":
            pixels = torch.arange(channels * height * width, device=keys.device)
            filling = (mean + std * normal(fold_in(keys[:, None], pixels), 5).view_as(images)).clamp_(0, 1)
        return torch.where(_inside(self.boxes(keys, height, width), height, width), filling, images)


class Cutout(Augmentation):
    """Erases a square around a random pixel, clipped at the border (DeVries & Taylor 2017).

    Args:
        size: Side of the square in pixels. The paper uses 16 for CIFAR-10 and 8 for CIFAR-100.
        probability: Probability of erasing.
    """

    def __init__(self, size: int = 16, probability: float = 1.0) -> None:
        if size < 1:
            raise ConfigError(f"size: {size} is not positive")
        self.size, self.probability = size, check_probability(probability)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        left = integers(keys, width, 1) - self.size // 2
        top = integers(keys, height, 2) - self.size // 2
        boxes = torch.stack([left, top, left + self.size, top + self.size], dim=1)
        cut = _inside(boxes, height, width) & drawn(keys, self.probability)[:, None, None, None]
        return torch.where(cut, torch.zeros((), dtype=images.dtype, device=images.device), images)
