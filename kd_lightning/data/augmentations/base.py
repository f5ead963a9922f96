"""What an augmentation is: a random change of a batch on the device it lies on, a function of the samples' keys."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.randomness import fold_in, named_key, uniform

CHUNK = 16
"""Images that a CPU changes at a time, so that what lies between two operations stays in its cache."""


class Augmentation(ABC):
    """A random change of images that keeps their labels."""

    @abstractmethod
    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Changed images N,3,H,W (uint8, or float in [0, 1]); every random choice about one is drawn from its key.

        Args:
            images: N,3,H,W, which may be overwritten. What only moves pixels keeps uint8; what computes with them
                returns float in [0, 1].
            keys: N int64.
        """


def augment(images: Tensor, keys: Tensor, augmentations: Sequence[Augmentation], *, done: int = 0) -> Tensor:
    """The augmentations one after another, each with keys of its own; `images` may be overwritten.

    Args:
        images: N,3,H,W.
        keys: N int64.
        augmentations: the steps.
        done: how many of the first are left out, as done before.
    """
    for position, augmentation in enumerate(augmentations):
        if position >= done:
            images = augmentation(images, fold_in(keys, position))
    return images


def view_keys(keys: Tensor, view: int) -> Tensor:
    """The keys of the samples' view 0, 1, 2, ...; view 0 has the samples' own."""
    return keys if view == 0 else named_key(keys, f"view {view}")


def drawn(keys: Tensor, probability: float, draw: int = 0) -> Tensor:
    """N bool, each true with a probability."""
    return uniform(keys, draw) < probability


def between(keys: Tensor, low: float, high: float, draw: int = 0) -> Tensor:
    """N float32, uniform from low to high."""
    return low + (high - low) * uniform(keys, draw)


def change_chosen(images: Tensor, chosen: Tensor, change: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
    """Writes what `change` makes of the chosen images (N bool) into `images`, and returns them.

    Only the chosen ones are computed, some at a time so that they stay in a processor's cache; `change` gets images
    of its own, and its rows of the parameters, N each. On a GPU the number of those chosen has to be waited for.
    """
    rows = chosen.nonzero()[:, 0]
    size = CHUNK if images.device.type == "cpu" else len(images)
    for some in rows.split(size) if len(rows) else []:
        changed = change(images.index_select(0, some), *(parameter.index_select(0, some) for parameter in parameters))
        images.index_copy_(0, some, changed)
    return images


def sizes(tries: Tensor, area: Tensor | float, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """2,...: the two sides in whole pixels of boxes whose area is a uniform share, and log ratio uniform.

    Args:
        tries: int64 keys; takes draws 0 and 1.
        area: of the whole images in pixels, a number or as `tries`.
        scale: smallest and largest share.
        ratio: smallest and largest ratio of the first side to the second.
    """
    area = area * between(tries, *scale, 0)
    low, high = torch.tensor(ratio).log().tolist()
    aspect = torch.exp(between(tries, low, high, 1))
    return torch.stack([area * aspect, area / aspect]).sqrt().round()


def check_probability(value: float) -> float:
    """The probability itself.

    Raises:
        ConfigError: if it is none.
    """
    if not 0 <= value <= 1:
        raise ConfigError(f"probability: {value} is not in [0, 1]")
    return value


def check_range(field: str, low: float, high: float, *, least: float = 0.0, most: float = float("inf")) -> None:
    """Refuses a range that is not from low to high within its bounds.

    Raises:
        ConfigError: naming the field.
    """
    if not least <= low <= high <= most:
        raise ConfigError(f"{field}: [{low}, {high}] is not a range from {least:g} to {most:g}, smaller value first")
