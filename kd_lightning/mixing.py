"""Images mixed with one another: mixup and CutMix, stateless, for the data and for methods alike."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kd_lightning.batch import Batch, as_float
from kd_lightning.errors import ConfigError
from kd_lightning.randomness import beta, named_key, uniform


class Mixed(NamedTuple):
    """N mixed images and where they come from."""

    images: Tensor
    """N,3,H,W float in [0, 1]."""
    partners: Tensor
    """N int64: the row of the image that was mixed in."""
    mix_lambda: Tensor
    """N float32: the share of the row's own image."""


def partners(keys: Tensor) -> Tensor:
    """A partner's row for each of N samples (int64), never its own where N > 1, every row once.

    The samples are put into a random circle by their keys, and each takes the next: it depends on which samples are
    in the batch, not on their order.
    """
    circle = torch.argsort(named_key(keys, "partner"), stable=True)
    chosen = torch.empty_like(circle)
    chosen[circle] = circle.roll(-1)
    return chosen


def mix_lambda(keys: Tensor, alpha: float, *, per: Literal["batch", "sample"] = "sample") -> Tensor:
    """N float32 from Beta(alpha, alpha): one a sample, or the same for all of a batch (as timm and most codes do)."""
    if per == "batch":
        keys = keys.min().expand(len(keys))  # any key would do; the smallest does not depend on the batch's order
    return beta(named_key(keys, "share"), alpha, alpha)


def mixup(images: Tensor, partners: Tensor, mix_lambda: Tensor) -> Mixed:
    """share x own + (1 - share) x partner's (Zhang et al. 2018). Images N,3,H,W uint8 or float in [0, 1]."""
    images = as_float(images)
    return Mixed(torch.lerp(images[partners], images, mix_lambda[:, None, None, None]), partners, mix_lambda)


def cutmix(images: Tensor, keys: Tensor, partners: Tensor, mix_lambda: Tensor) -> Mixed:
    """A box of the partner's, of area 1 - share, about a random pixel and cut off at the border (Yun et al. 2019).

    The shares that come back are what is left of each image after the cutting off.
    """
    images = as_float(images)
    height, width = images.shape[-2:]
    side = (1 - mix_lambda).sqrt()
    keys = named_key(keys, "box")
    box = []
    for draw, size in ((0, height), (1, width)):
        half = torch.floor(size * side) // 2
        center = torch.floor(uniform(keys, draw) * size)
        box.append(((center - half).clamp(0, size), (center + half).clamp(0, size)))
    (top, bottom), (left, right) = box
    y, x = torch.arange(height, device=keys.device), torch.arange(width, device=keys.device)
    down = (y >= top[:, None]) & (y < bottom[:, None])
    across = (x >= left[:, None]) & (x < right[:, None])
    cut = (down[:, :, None] & across[:, None, :])[:, None]
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    return Mixed(torch.where(cut, images[partners], images), partners, kept)


class Mixing:
    """Mixup and CutMix of the training batches with their labels, with the choices of timm's Mixup.

    Partners are of the same batch, so the mixed images depend on who else is in it: on the batch size and the number
    of devices, but on nothing else.

    Args:
        mixup: alpha of mixup's Beta(alpha, alpha); 0: none.
        cutmix: alpha of CutMix's; 0: none.
        switch: with both, the probability of CutMix.
        probability: that a batch (or sample) is mixed at all.
        per: one choice and share for all of a batch, or one for every sample.

    Raises:
        ConfigError: for values out of range, and where nothing would be mixed.
    """

    def __init__(
        self,
        *,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        switch: float = 0.5,
        probability: float = 1.0,
        per: Literal["batch", "sample"] = "batch",
    ) -> None:
        if min(mixup, cutmix) < 0 or max(mixup, cutmix) == 0:
            raise ConfigError(f"data.mixing: mixup {mixup} and cutmix {cutmix} are to be 0 or more, not both 0")
        for field, value in (("switch", switch), ("probability", probability)):
            if not 0 <= value <= 1:
                raise ConfigError(f"data.mixing.{field}: {value} is not in [0, 1]")
        self.mixup, self.cutmix, self.per, self.probability = mixup, cutmix, per, probability
        self.switch = switch if mixup and cutmix else float(cutmix > 0)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with mixed images (further views stay as they are), its partners' labels and the shares."""
        keys = batch.keys.min().expand(len(batch.keys)) if self.per == "batch" else batch.keys
        rows = partners(batch.keys)
        active = uniform(named_key(keys, "mixed"), 0) < self.probability
        cut = uniform(named_key(keys, "mixed"), 1) < self.switch
        one = torch.ones((), device=keys.device)
        blended = mixup(batch.images, rows, torch.where(active, mix_lambda(keys, self.mixup or 1.0), one))
        boxed = cutmix(batch.images, keys, rows, torch.where(active, mix_lambda(keys, self.cutmix or 1.0), one))
        return batch._replace(
            images=torch.where(cut[:, None, None, None], boxed.images, blended.images),
            partner_labels=batch.labels[rows],
            mix_lambda=torch.where(cut, boxed.mix_lambda, blended.mix_lambda),
        )
