"""Automatic augmentation: RandAugment, TrivialAugment, and timm's variant of RandAugment."""

from abc import abstractmethod
from typing import Literal

import torch
from timm.data import IMAGENET_DEFAULT_MEAN
from torch import Tensor

from kd_lightning.batch import as_float
from kd_lightning.data.augmentations.base import Augmentation, apply_to_selected, check_probability, drawn
from kd_lightning.data.augmentations.operations import table
from kd_lightning.errors import ConfigError
from kd_lightning.randomness import fold_in, integers, normal

Fill = tuple[float, float, float]


class _Policy(Augmentation):
    """Base of policies with several rounds. Each round applies one random operation from a list to every image."""

    names: tuple[str, ...]
    shear, rotation = 0.3, 30.0
    """Largest shear, and largest rotation in degrees."""

    def __init__(self, rounds: int, probability: float, mode: str, fill: Fill) -> None:
        if rounds < 1:
            raise ConfigError(f"num_ops: {rounds} is not positive")
        self.rounds, self.probability, self.operations = rounds, check_probability(probability), table(mode, fill)

    @abstractmethod
    def strength(self, keys: Tensor) -> Tensor:
        """Return N float32 from 0 (the weakest change) to 1 (the strongest)."""

    @abstractmethod
    def shift(self, strength: Tensor, side: int) -> Tensor:
        """Return N translations in pixels for images of this side."""

    @abstractmethod
    def colour(self, name: str, strength: Tensor, sign: Tensor) -> Tensor:
        """Return N parameters of an operation that does not move pixels."""

    def amount(self, name: str, strength: Tensor, sign: Tensor, height: int, width: int) -> Tensor:
        """Return N parameters of an operation from strengths and signs (1 or -1)."""
        if name.startswith("Shear"):
            return sign * strength * self.shear
        if name == "Rotate":
            return sign * strength * self.rotation
        if name.startswith("Translate"):
            return sign * self.shift(strength, width if name == "TranslateX" else height)
        return self.colour(name, strength, sign)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        images = as_float(images)
        for number in range(self.rounds):
            round_keys = fold_in(keys, number)
            chosen, strength = integers(round_keys, len(self.names), 0), self.strength(round_keys)
            sign = 1 - 2 * integers(round_keys, 2, 1)
            active = drawn(round_keys, self.probability, 2)
            for index, name in enumerate(self.names):
                if name != "Identity":
                    amount = self.amount(name, strength, sign, *images.shape[-2:])
                    apply_to_selected(images, active & (chosen == index), self.operations[name], amount)
        return images


class RandAugment(_Policy):
    """Applies several operations with one magnitude (Cubuk et al. 2020), with torchvision's list and ranges.

    Args:
        num_ops: Number of operations that are applied to an image, one after the other.
        magnitude: Magnitude of the operations, from 0 to `bins` - 1.
        bins: Number of magnitudes.
        interpolation: Interpolation of operations that move pixels.
        fill: Colour of pixels from outside the image.
    """

    names = tuple(
        "Identity ShearX ShearY TranslateX TranslateY Rotate Brightness Color Contrast Sharpness Posterize Solarize "
        "AutoContrast Equalize".split()
    )
    enhancement, lost_bits = 0.9, 4

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: int = 9,
        bins: int = 31,
        interpolation: Literal["nearest", "bilinear", "bicubic"] = "nearest",
        fill: Fill = (0.0, 0.0, 0.0),
    ) -> None:
        super().__init__(num_ops, 1.0, interpolation, fill)
        if bins < 2:
            raise ConfigError(f"bins: {bins} is less than 2")
        if not 0 <= magnitude < bins:
            raise ConfigError(f"magnitude: {magnitude} is not between 0 and {bins - 1}, which is bins - 1")
        self.magnitude, self.bins = magnitude, bins

    def strength(self, keys: Tensor) -> Tensor:
        return torch.full(keys.shape, self.magnitude / (self.bins - 1), device=keys.device)

    def translation(self, side: int) -> float:
        """Return the largest translation of an image of this side, in pixels."""
        return 150 / 331 * side

    def shift(self, strength: Tensor, side: int) -> Tensor:
        return torch.trunc(strength * self.translation(side))

    def colour(self, name: str, strength: Tensor, sign: Tensor) -> Tensor:
        if name == "Posterize":
            return 8 - torch.round(strength * self.lost_bits)
        if name == "Solarize":
            return 1 - strength
        return 1 + sign * strength * self.enhancement


class TrivialAugment(RandAugment):
    """Applies one operation with a random magnitude (Müller & Hutter 2021), as torchvision's TrivialAugmentWide.

    Args:
        bins: Number of magnitudes.
        interpolation: Interpolation of operations that move pixels.
        fill: Colour of pixels from outside the image.
    """

    shear, rotation, enhancement, lost_bits = 0.99, 135.0, 0.99, 6

    def __init__(
        self,
        bins: int = 31,
        interpolation: Literal["nearest", "bilinear", "bicubic"] = "nearest",
        fill: Fill = (0.0, 0.0, 0.0),
    ) -> None:
        super().__init__(1, 0, bins, interpolation, fill)

    def strength(self, keys: Tensor) -> Tensor:
        return integers(keys, self.bins, 3) / (self.bins - 1)

    def translation(self, side: int) -> float:
        return 32.0


class TimmRandAugment(_Policy):
    """timm's RandAugment with increasing severity. The defaults are `rand-m9-mstd0.5-inc1`, as in DeiT.

    Each operation of a round is applied with probability 0.5. timm uses Pillow's bicubic interpolation with a = -0.5.
    The function grid_sample, which is used here, has a = -0.75.

    Args:
        magnitude: Mean magnitude, from 0 to 10.
        magnitude_std: Standard deviation of the magnitude.
        num_ops: Number of rounds.
        interpolation: Interpolation of operations that move pixels.
        fill: Colour of pixels from outside the image. Default: ImageNet's mean.
    """

    names = tuple(
        "AutoContrast Equalize Invert Rotate Posterize Solarize SolarizeAdd Color Contrast Brightness Sharpness ShearX "
        "ShearY TranslateX TranslateY".split()
    )

    def __init__(
        self,
        magnitude: float = 9.0,
        magnitude_std: float = 0.5,
        num_ops: int = 2,
        interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic",
        fill: Fill = IMAGENET_DEFAULT_MEAN,
    ) -> None:
        super().__init__(num_ops, 0.5, interpolation, fill)
        if not 0 <= magnitude <= 10:
            raise ConfigError(f"magnitude: {magnitude} is not from 0 to 10")
        if magnitude_std < 0:
            raise ConfigError(f"magnitude_std: {magnitude_std} is negative")
        self.magnitude, self.magnitude_std = magnitude, magnitude_std

    def strength(self, keys: Tensor) -> Tensor:
        return (self.magnitude + self.magnitude_std * normal(keys, 3)).clamp(0, 10) / 10

    def shift(self, strength: Tensor, side: int) -> Tensor:
        return strength * 0.45 * side

    def colour(self, name: str, strength: Tensor, sign: Tensor) -> Tensor:
        if name == "Posterize":
            return 4 - torch.trunc(strength * 4)
        if name == "Solarize":
            return (256 - torch.trunc(strength * 256)) / 255
        if name == "SolarizeAdd":
            return torch.trunc(strength * 110) / 255
        return (1 + sign * strength * 0.9).clamp(min=0.1)
