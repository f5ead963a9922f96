"""Base class of augmentations: random changes of a batch on its device, as functions of the samples' keys."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.randomness import fold_in, named_key, uniform

CHUNK = 16
"""Number of images per chunk on a CPU. Intermediate results of this number of images fit into the CPU's cache."""


class Augmentation(ABC):
    """Base class of random changes of images that keep the label."""

    @abstractmethod
    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Return changed images N,3,H,W (uint8, or float in [0, 1]). The change of an image depends only on its key.

        Args:
            images: Images N,3,H,W, which may be overwritten. For uint8 images, augmentations that only move pixels
                return uint8. All other augmentations return float in [0, 1].
            keys: Keys of the samples, N int64.
        """


def augment(images: Tensor, keys: Tensor, augmentations: Sequence[Augmentation], *, num_done: int = 0) -> Tensor:
    """Apply augmentations in order, each with its own keys. The tensor `images` may be overwritten.

    Args:
        images: Images N,3,H,W.
        keys: Keys of the samples, N int64.
        augmentations: Augmentations to apply.
        num_done: Number of augmentations at the start of the list that have already been applied. They are skipped.
    """
    for position, augmentation in enumerate(augmentations):
        if position >= num_done:
            images = augmentation(images, fold_in(keys, position))
    return images


def view_keys(keys: Tensor, view: int) -> Tensor:
    """Return the keys of a view (0, 1, 2, ...) of the samples. View 0 has the keys of the samples."""
    return keys if view == 0 else named_key(keys, f"view {view}")


def drawn(keys: Tensor, probability: float, draw: int = 0) -> Tensor:
    """Return N bool, each true with this probability."""
    return uniform(keys, draw) < probability


def between(keys: Tensor, low: float, high: float, draw: int = 0) -> Tensor:
    """Return N float32, uniform from low to high."""
    return low + (high - low) * uniform(keys, draw)


def apply_to_selected(images: Tensor, selected: Tensor, change: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
    """Replace the selected images (N bool) by the result of `change` in place, and return all images.

    Only selected images are computed, in chunks that fit into a CPU's cache. `change` gets copies of these images and
    the same rows of the parameters, which have N rows each. On a GPU, this function waits for the number of selected
    images.
    """
    rows = selected.nonzero()[:, 0]
    size = CHUNK if images.device.type == "cpu" else len(images)
    for part in rows.split(size) if len(rows) else []:
        changed = change(images.index_select(0, part), *(parameter.index_select(0, part) for parameter in parameters))
        images.index_copy_(0, part, changed)
    return images


def sizes(tries: Tensor, area: Tensor | float, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Return the sides of random boxes in integer pixels: 2,... The share of the area and the log ratio are uniform.

    Args:
        tries: Keys of the boxes, int64. The draws 0 and 1 are used.
        area: Area of the images in pixels: a number, or a tensor like `tries`.
        scale: Smallest and largest share of the area.
        ratio: Smallest and largest ratio of the first side to the second.
    """
    area = area * between(tries, *scale, 0)
    low, high = torch.tensor(ratio).log().tolist()
    aspect = torch.exp(between(tries, low, high, 1))
    return torch.stack([area * aspect, area / aspect]).sqrt().round()


def check_probability(value: float) -> float:
    """Return a probability after checking it.

    Raises:
        ConfigError: if the probability is not in [0, 1].
    """
    if not 0 <= value <= 1:
        raise ConfigError(f"probability: {value} is not in [0, 1]")
    return value


def check_range(field: str, low: float, high: float, *, minimum: float = 0.0, maximum: float = float("inf")) -> None:
    """Raise an error if low is above high, or if one of them is not from minimum to maximum.

    Raises:
        ConfigError: in these cases. The message names the field.
    """
    if not minimum <= low <= high <= maximum:
        raise ConfigError(
            f"{field}: [{low}, {high}] is not valid; give two values from {minimum:g} to {maximum:g}, the smaller first"
        )
