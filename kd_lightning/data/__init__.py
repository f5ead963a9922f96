"""Data sets. A class that is imported here can be used in YAML by its name."""

from kd_lightning.data.augmentations import (
    Augmentation,
    ColorJitter,
    Cutout,
    GaussianBlur,
    HorizontalFlip,
    RandAugment,
    RandomCrop,
    RandomErasing,
    RandomGrayscale,
    RandomResizedCrop,
    TimmRandAugment,
    TrivialAugment,
)
from kd_lightning.data.base import ImageData
from kd_lightning.data.cifar import CIFAR10, CIFAR100
from kd_lightning.data.cinic10 import CINIC10
from kd_lightning.data.digits import Digits
from kd_lightning.data.folder import ImageFolder
from kd_lightning.data.hub import HFDataset
from kd_lightning.data.imagenet import ImageNet
from kd_lightning.data.random_images import RandomImages
from kd_lightning.data.tiny_imagenet import TinyImageNet

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "CINIC10",
    "Augmentation",
    "ColorJitter",
    "Cutout",
    "Digits",
    "GaussianBlur",
    "HFDataset",
    "HorizontalFlip",
    "ImageData",
    "ImageFolder",
    "ImageNet",
    "RandAugment",
    "RandomCrop",
    "RandomErasing",
    "RandomGrayscale",
    "RandomImages",
    "RandomResizedCrop",
    "TimmRandAugment",
    "TinyImageNet",
    "TrivialAugment",
]
