"""Colours, as batched functions of one parameter an image and as augmentations."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from kd_lightning.data.augmentations.base import (
    Augmentation,
    as_float,
    between,
    check_probability,
    check_range,
    drawn,
    where,
)
from kd_lightning.errors import ConfigError
from kd_lightning.randomness import fold


def blend(images: Tensor, reference: Tensor, factor: Tensor) -> Tensor:
    """reference + factor (images - reference), clamped to [0, 1]: float N,3,H,W and N factors."""
    return torch.lerp(reference, images, factor[:, None, None, None]).clamp_(0, 1)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """0 is black, 1 no change."""
    return (images * factor[:, None, None, None]).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """0 is the mean gray, 1 no change."""
    return blend(images, gray(images).mean(dim=(1, 2, 3), keepdim=True).expand_as(images), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """0 is gray, 1 no change."""
    return blend(images, gray(images).expand_as(images), factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """0 is smoothed by 3x3 pixels, 1 no change."""
    return blend(images, tv.adjust_sharpness(images, 0.0), factor)


def hue(images: Tensor, shift: Tensor) -> Tensor:
    """Colours turned by a share of the colour circle; 0 and 1 are no change."""
    top, bottom = images.amax(dim=1), images.amin(dim=1)
    chroma = top - bottom
    red, green, blue = images.unbind(1)
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    angle = torch.where(
        top == red,
        (green - blue) / safe,
        torch.where(top == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    angle = angle + 6 * shift[:, None, None]  # in sixths of the circle
    offsets = torch.tensor([5.0, 3.0, 1.0], device=images.device)[:, None, None]
    place = torch.remainder(angle[:, None] + offsets, 6)
    return torch.addcmul(top[:, None], chroma[:, None], torch.minimum(place, 4 - place).clamp_(0, 1), value=-1)


def gray(images: Tensor) -> Tensor:
    """N,1,H,W: the luma of ITU-R 601, as torchvision's."""
    return tv.rgb_to_grayscale(images, num_output_channels=1)


def blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Gaussian blur with a sigma in pixels for each image, mirrored at the borders."""
    count, channels, height, width = images.shape
    half = min(kernel_size // 2, height - 1, width - 1)
    x = torch.arange(-half, half + 1, device=images.device)
    kernel = torch.exp(-0.5 * (x / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)[:, None]
    flat = F.pad(images.reshape(1, count * channels, height, width), (half, half, half, half), mode="reflect")
    flat = F.conv2d(flat, kernel[:, :, None, :], groups=count * channels)
    return F.conv2d(flat, kernel[:, :, :, None], groups=count * channels).view_as(images)


class ColorJitter(Augmentation):
    """Brightness, contrast, saturation and hue changed in random order, as torchvision's ColorJitter.

    Args:
        brightness: b draws the factor from [1 - b, 1 + b], at least 0.
        contrast: likewise.
        saturation: likewise.
        hue: h draws the turn from [-h, h] of the colour circle; at most 0.5.
        probability: that an image is changed at all.
    """

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        probability: float = 1.0,
    ) -> None:
        for field, value, most in (
            ("brightness", brightness, float("inf")),
            ("contrast", contrast, float("inf")),
            ("saturation", saturation, float("inf")),
            ("hue", hue, 0.5),
        ):
            if not 0 <= value <= most:
                raise ConfigError(f"{field}: {value} is not from 0 to {most:g}")
        self.factors, self.hue = (brightness, contrast, saturation), hue
        self.probability = check_probability(probability)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        order = torch.argsort(fold(keys[:, None], torch.arange(4, device=keys.device) + 8), dim=1)
        changed = drawn(keys, self.probability, 4)
        steps = [
            (operation, between(keys, max(0.0, 1 - width), 1 + width, number))
            for number, (operation, width) in enumerate(zip((brightness, contrast, saturation), self.factors))
        ]
        steps.append((hue, between(keys, -self.hue, self.hue, 3)))
        active = [number for number, width in enumerate((*self.factors, self.hue)) if width > 0]
        images = as_float(images)
        for position in range(4):
            for number in active:
                operation, parameter = steps[number]
                images = where(changed & (order[:, position] == number), images, operation, parameter)
        return images


class RandomGrayscale(Augmentation):
    """Three equal channels with a probability, as torchvision's RandomGrayscale.

    Args:
        probability: of the change.
    """

    def __init__(self, probability: float = 0.2) -> None:
        self.probability = check_probability(probability)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        return where(drawn(keys, self.probability), as_float(images), lambda x: gray(x).expand_as(x))


class GaussianBlur(Augmentation):
    """Blur by a Gaussian of random width, as torchvision's GaussianBlur.

    Args:
        sigma: smallest and largest standard deviation in pixels.
        kernel_size: pixels that the Gaussian is cut at, odd; less where the images are smaller.
        probability: that an image is blurred.
    """

    def __init__(
        self, sigma: tuple[float, float] = (0.1, 2.0), kernel_size: int = 23, probability: float = 0.5
    ) -> None:
        check_range("sigma", *sigma, least=1e-3)
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size: {kernel_size} is not an odd number from 3 up")
        self.sigma, self.kernel_size, self.probability = sigma, kernel_size, check_probability(probability)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        sigma = between(keys, *self.sigma, 1)
        blurred = drawn(keys, self.probability)
        return where(blurred, as_float(images), lambda x, s: blur(x, s, self.kernel_size), sigma)
