"""Colour changes as batched functions with one parameter per image, and as augmentations."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from kd_lightning.batch import as_float
from kd_lightning.data.augmentations.base import (
    Augmentation,
    apply_to_selected,
    between,
    check_probability,
    check_range,
    drawn,
)
from kd_lightning.errors import ConfigError
from kd_lightning.randomness import fold_in

# these functions may overwrite their input


def blend(images: Tensor, reference: Tensor, factor: Tensor) -> Tensor:
    """Return reference + factor x (images - reference), clamped to [0, 1], for float images N,3,H,W and N factors."""
    factor = factor[:, None, None, None]
    return images.mul_(factor).add_(reference * (1 - factor)).clamp_(0, 1)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Change the brightness. Factor 0 gives black, and factor 1 changes nothing."""
    return images.mul_(factor[:, None, None, None]).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Change the contrast. Factor 0 gives the mean gray, and factor 1 changes nothing."""
    return blend(images, gray(images.flatten(2).mean(dim=2)[:, :, None, None]), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Change the saturation. Factor 0 gives gray, and factor 1 changes nothing."""
    return blend(images, gray(images), factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Change the sharpness. Factor 0 smooths over 3x3 pixels, and factor 1 changes nothing."""
    return blend(images, tv.adjust_sharpness(images, 0.0), factor)


def hue(images: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hues by a share of the colour circle. The shares 0 and 1 change nothing."""
    red, green, blue = images.unbind(1)
    top = torch.maximum(torch.maximum(red, green), blue)
    chroma = top - torch.minimum(torch.minimum(red, green), blue)
    inverse = chroma.clamp(min=1e-12).reciprocal_()
    angle = torch.where(
        top == red,
        (green - blue).mul_(inverse),
        torch.where(top == green, (blue - red).mul_(inverse).add_(2), (red - green).mul_(inverse).add_(4)),
    )
    angle += 6 * shift[:, None, None]  # in sixths of the circle
    # a channel is minimal within a sixth of its opposite hue, maximal from two sixths away, and linear in between
    away = angle[:, None] + torch.tensor([3.0, 1.0, -1.0], device=images.device)[:, None, None]
    away -= (away / 6).round_().mul_(6)
    fall = away.abs_().neg_().add_(2).clamp_(0, 1).mul_(chroma[:, None])
    return torch.sub(top[:, None], fall, out=fall)


def gray(images: Tensor) -> Tensor:
    """Return the luma of ITU-R 601 with torchvision's weights, N,1,H,W."""
    luma = images[:, :1] * 0.2989
    return luma.add_(images[:, 1:2], alpha=0.587).add_(images[:, 2:], alpha=0.114)


def blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur each image with a Gaussian of its own sigma in pixels, with reflected borders."""
    count, channels, height, width = images.shape
    half = min(kernel_size // 2, height - 1, width - 1)
    x = torch.arange(-half, half + 1, device=images.device)
    kernel = torch.exp(-0.5 * (x / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)[:, None]
    flat = F.pad(images.reshape(1, count * channels, height, width), (half, half, half, half), mode="reflect")
    flat = F.conv2d(flat, kernel[:, :, None, :], groups=count * channels)
    return F.conv2d(flat, kernel[:, :, :, None], groups=count * channels).view_as(images)


class ColorJitter(Augmentation):
    """Changes brightness, contrast, saturation and hue in random order, as torchvision's ColorJitter.

    Args:
        brightness: Largest change b of the brightness. The factor is drawn from [1 - b, 1 + b], but is at least 0.
        contrast: Largest change of the contrast, as for brightness.
        saturation: Largest change of the saturation, as for brightness.
        hue: Largest rotation h of the hue, at most 0.5. The rotation is drawn from [-h, h]; 1 is the full colour
            circle.
        probability: Probability that an image is changed.
    """

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        probability: float = 1.0,
    ) -> None:
        for field, value, largest in (
            ("brightness", brightness, float("inf")),
            ("contrast", contrast, float("inf")),
            ("saturation", saturation, float("inf")),
            ("hue", hue, 0.5),
        ):
            if not 0 <= value <= largest:
                raise ConfigError(f"{field}: {value} is not from 0 to {largest:g}")
        self.factors, self.hue = (brightness, contrast, saturation), hue
        self.probability = check_probability(probability)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        order = torch.argsort(fold_in(keys[:, None], torch.arange(4, device=keys.device) + 8), dim=1)
        changed = drawn(keys, self.probability, 4)
        operations = zip((brightness, contrast, saturation), self.factors, strict=True)
        steps = [
            (operation, between(keys, max(0.0, 1 - width), 1 + width, number))
            for number, (operation, width) in enumerate(operations)
        ]
        steps.append((hue, between(keys, -self.hue, self.hue, 3)))
        active = [number for number, width in enumerate((*self.factors, self.hue)) if width > 0]
        images = as_float(images)
        for position in range(4):
            for number in active:
                operation, parameter = steps[number]
                apply_to_selected(images, changed & (order[:, position] == number), operation, parameter)
        return images


class RandomGrayscale(Augmentation):
    """Converts to gray (three equal channels) with a probability, as torchvision's RandomGrayscale.

    Args:
        probability: Probability of the conversion.
    """

    def __init__(self, probability: float = 0.2) -> None:
        self.probability = check_probability(probability)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        return apply_to_selected(as_float(images), drawn(keys, self.probability), lambda x: gray(x).expand_as(x))


class GaussianBlur(Augmentation):
    """Blurs with a Gaussian of random width, as torchvision's GaussianBlur.

    Args:
        sigma: Smallest and largest standard deviation in pixels.
        kernel_size: Size of the kernel in pixels, an odd number. The size is reduced for small images.
        probability: Probability that an image is blurred.
    """

    def __init__(
        self, sigma: tuple[float, float] = (0.1, 2.0), kernel_size: int = 23, probability: float = 0.5
    ) -> None:
        check_range("sigma", *sigma, minimum=1e-3)
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size: {kernel_size} is not an odd number of at least 3")
        self.sigma, self.kernel_size, self.probability = sigma, kernel_size, check_probability(probability)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        sigma = between(keys, *self.sigma, 1)
        blurred = drawn(keys, self.probability)
        return apply_to_selected(as_float(images), blurred, lambda x, s: blur(x, s, self.kernel_size), sigma)
