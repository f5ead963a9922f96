"""Base class of augmentations: random changes of a batch on its device, as functions of the samples' keys."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.randomness import fold_in, named_key, uniform

CHUNK = 16
"""Images per chunk on a CPU, so that intermediate results fit into its cache."""


class Augmentation(ABC):
    """A random, label-preserving change of images."""

    @abstractmethod
    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Return changed images N,3,H,W (uint8, or float in [0, 1]); the change of an image depends only on its key.

        Args:
            images: N,3,H,W; they may be overwritten. Augmentations that only move pixels return uint8 for uint8; others
                return float in [0, 1].
            keys: N int64.
        """


def augment(images: Tensor, keys: Tensor, augmentations: Sequence[Augmentation], *, num_done: int = 0) -> Tensor:
    """Apply augmentations in order, each with its own keys; `images` may be overwritten.

    Args:
        images: N,3,H,W.
        keys: N int64.
        augmentations: augmentations to apply.
        num_done: number of augmentations at the start of the list to skip, because they have already been applied.
    """
    for position, augmentation in enumerate(augmentations):
        if position >= num_done:
            images = augmentation(images, fold_in(keys, position))
    return images


def view_keys(keys: Tensor, view: int) -> Tensor:
    """Return the keys of view 0, 1, 2, ... of the samples; view 0 has the samples' keys."""
    return keys if view == 0 else named_key(keys, f"view {view}")


def drawn(keys: Tensor, probability: float, draw: int = 0) -> Tensor:
    """Return N bool, each true with this probability."""
    return uniform(keys, draw) < probability


def between(keys: Tensor, low: float, high: float, draw: int = 0) -> Tensor:
    """Return N float32, uniform from low to high."""
    return low + (high - low) * uniform(keys, draw)


def apply_to_selected(images: Tensor, selected: Tensor, change: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
    """Replace the selected images (N bool) by the result of `change` in place, and return all images.

    Only selected images are computed, in chunks that fit into a CPU's cache; `change` gets copies of the images and
    the corresponding rows of the parameters, N each. On a GPU this synchronises to get the number of selected images.
    """
    rows = selected.nonzero()[:, 0]
    size = CHUNK if images.device.type == "cpu" else len(images)
    for part in rows.split(size) if len(rows) else []:
        changed = change(images.index_select(0, part), *(parameter.index_select(0, part) for parameter in parameters))
        images.index_copy_(0, part, changed)
    return images


def sizes(tries: Tensor, area: Tensor | float, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Return 2,...: the sides of boxes in integer pixels, with uniform share of the area and uniform log ratio.

    Args:
        tries: int64 keys; draws 0 and 1 are used.
        area: area of the images in pixels, a number or a tensor like `tries`.
        scale: smallest and largest share of the area.
        ratio: smallest and largest ratio of the first side to the second.
    """
    area = area * between(tries, *scale, 0)
    low, high = torch.tensor(ratio).log().tolist()
    aspect = torch.exp(between(tries, low, high, 1))
    return torch.stack([area * aspect, area / aspect]).sqrt().round()


def check_probability(value: float) -> float:
    """Return a probability after checking it.

    Raises:
        ConfigError: if it is not in [0, 1].
    """
    if not 0 <= value <= 1:
        raise ConfigError(f"probability: {value} is not in [0, 1]")
    return value


def check_range(field: str, low: float, high: float, *, minimum: float = 0.0, maximum: float = float("inf")) -> None:
    """Raise an error if low and high are not in this order, or not from minimum to maximum.

    Raises:
        ConfigError: for such a range; the message names the field.
    """
    if not minimum <= low <= high <= maximum:
        raise ConfigError(
            f"{field}: [{low}, {high}] is not a range from {minimum:g} to {maximum:g}, smaller value first"
        )
