"""Augmentations of batches on their device. A class that is imported here can be used in YAML by its name."""

from kd_lightning.data.augmentations.auto import RandAugment, TimmRandAugment, TrivialAugment
from kd_lightning.data.augmentations.base import Augmentation, augment, view_keys
from kd_lightning.data.augmentations.color import ColorJitter, GaussianBlur, RandomGrayscale
from kd_lightning.data.augmentations.erasing import Cutout, RandomErasing
from kd_lightning.data.augmentations.geometry import HorizontalFlip, RandomCrop, RandomResizedCrop
from kd_lightning.data.augmentations.presets import Preset, preset

__all__ = [
    "Augmentation",
    "ColorJitter",
    "Cutout",
    "GaussianBlur",
    "HorizontalFlip",
    "Preset",
    "RandAugment",
    "RandomCrop",
    "RandomErasing",
    "RandomGrayscale",
    "RandomResizedCrop",
    "TimmRandAugment",
    "TrivialAugment",
    "augment",
    "preset",
    "view_keys",
]
