"""The 15 common corruptions of Hendrycks and Dietterich 2019, for batches of images.

The paper is "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations" (ICLR 2019). Its image
sets are ImageNet-C, CIFAR-10-C and Tiny-ImageNet-C, with images of 224, 32 and 64 pixels. The constants for these sizes
are from the published code. Other sizes use the constants of the size with the nearest ratio. The random numbers depend
on the keys of the samples. They differ from those of the published images, but have the same distribution. Only frost
differs from the published code (see the module `frost`).

A higher severity does not always cause a larger squared error. Some published constants of glass_blur, frost and
elastic_transform do not increase with the severity. At 32 pixels, the constants of motion_blur do not increase from
severity 3 to 4.
"""

import torch
from torch import Tensor

from kd_lightning.errors import ConfigError, nearest
from kd_lightning.evaluation.corruptions.base import Corruption
from kd_lightning.evaluation.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from kd_lightning.evaluation.corruptions.digital import contrast, elastic_transform, jpeg_compression, pixelate
from kd_lightning.evaluation.corruptions.frost import frost
from kd_lightning.evaluation.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from kd_lightning.evaluation.corruptions.weather import brightness, fog, snow
from kd_lightning.randomness import fold_in, named_key

__all__ = ["CORRUPTIONS", "SEVERITIES", "check_corruption", "corrupt"]

CORRUPTIONS: dict[str, Corruption] = {
    corruption.__name__: corruption
    for corruption in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        defocus_blur,
        glass_blur,
        motion_blur,
        zoom_blur,
        snow,
        frost,
        fog,
        brightness,
        contrast,
        elastic_transform,
        pixelate,
        jpeg_compression,
    )
}
"""Corruptions by name, in the paper's order."""
SEVERITIES = (1, 2, 3, 4, 5)
MIN_SIDE = 8
"""Smallest side in pixels."""
_CHUNK_VALUES = {"cpu": 1 << 17}
_CHUNK_VALUES_GPU = 1 << 22


def corrupt(images: Tensor, keys: Tensor, name: str, severity: int) -> Tensor:
    """Return corrupted images, uint8 N,3,H,W. Each result depends only on the image, its key, the name and severity.

    Values are truncated to integer levels as in the published code. Motion blur, pixelate and JPEG round values, as the
    libraries of the published code do. A value less than 1e-6 below a level gets this level, so that rounding errors
    have no effect.

    Args:
        images: Images N,3,H,W, uint8 or float in [0, 1]. Floats are first rounded to multiples of 1/255. The tensor is
            not changed.
        keys: Keys of the samples, N int64.
        name: Name of a corruption in `CORRUPTIONS`.
        severity: Severity from 1 to 5.

    Raises:
        ConfigError: if the name or the severity is unknown, or if a side of the images is below 8 pixels.
    """
    check_corruption(name, severity)
    if min(images.shape[-2:]) < MIN_SIDE:
        raise ConfigError(
            f"{name}: the images have {images.shape[-1]}x{images.shape[-2]} pixels, but no side may be below {MIN_SIDE}"
        )
    if images.dtype != torch.uint8:
        images = (images.float() * 255).round_().clamp_(0, 255).to(torch.uint8)
    corruption_keys = fold_in(named_key(keys, name), severity)
    chunk = max(1, _CHUNK_VALUES.get(images.device.type, _CHUNK_VALUES_GPU) // images[0].numel()) if len(images) else 1
    parts = zip(images.split(chunk), corruption_keys.split(chunk), strict=True)
    return torch.cat([CORRUPTIONS[name](part, draws, severity) for part, draws in parts]) if len(images) else images


def check_corruption(name: str, severity: int = 1) -> None:
    """Raise an error for an unknown corruption.

    Raises:
        ConfigError: if the name is not in `CORRUPTIONS`, or the severity is not in `SEVERITIES`.
    """
    if name not in CORRUPTIONS:
        raise ConfigError(f"corruption: there is no corruption {name!r}{nearest(name, CORRUPTIONS)}")
    if severity not in SEVERITIES:
        close = min(SEVERITIES, key=lambda known: abs(known - severity))
        raise ConfigError(f"severity: {severity} is not a whole number from 1 to 5; nearest: {close}")
