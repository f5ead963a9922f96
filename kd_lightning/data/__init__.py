"""Data sets. An import here makes the class's name known in YAML."""

from kd_lightning.data.base import ImageData
from kd_lightning.data.cifar import CIFAR10, CIFAR100
from kd_lightning.data.digits import Digits
from kd_lightning.data.folder import ImageFolder
from kd_lightning.data.tiny_imagenet import TinyImageNet
from kd_lightning.data.transforms import Augmentation, HorizontalFlip, RandomCrop

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "Augmentation",
    "Digits",
    "HorizontalFlip",
    "ImageData",
    "ImageFolder",
    "RandomCrop",
    "TinyImageNet",
]
