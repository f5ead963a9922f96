"""Mixup and CutMix as stateless functions, which data sets and methods use."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kd_lightning.batch import Batch, as_float
from kd_lightning.errors import ConfigError
from kd_lightning.randomness import beta, named_key, uniform


class Mixed(NamedTuple):
    """N mixed images and the rows of the images that were mixed."""

    images: Tensor
    """N,3,H,W float in [0, 1]."""
    partners: Tensor
    """N int64: the row of the image that was mixed into each image."""
    mix_lambda: Tensor
    """N float32: the share of the image itself; the rest comes from its partner."""


def partners(keys: Tensor) -> Tensor:
    """Return the row of a partner for each of N samples, as int64. Each row occurs once.

    The keys put the samples into a random circle, and the partner of each sample is the next one in the circle. If
    N > 1, no sample is its own partner. The result depends on which samples are in the batch, but not on their order.
    """
    circle = torch.argsort(named_key(keys, "partner"), stable=True)
    chosen = torch.empty_like(circle)
    chosen[circle] = circle.roll(-1)
    return chosen


def mix_lambda(keys: Tensor, alpha: float, *, per: Literal["batch", "sample"] = "sample") -> Tensor:
    """Return N float32 from Beta(alpha, alpha): one per sample, or one for the batch (as in timm and most codes)."""
    if per == "batch":
        keys = keys.min().expand(len(keys))  # the smallest key does not depend on the order in the batch
    return beta(named_key(keys, "share"), alpha, alpha)


def mixup(images: Tensor, partners: Tensor, mix_lambda: Tensor) -> Mixed:
    """Return mix_lambda x image + (1 - mix_lambda) x partner (Zhang et al. 2018).

    The images are N,3,H,W, uint8 or float in [0, 1].
    """
    images = as_float(images)
    return Mixed(torch.lerp(images[partners], images, mix_lambda[:, None, None, None]), partners, mix_lambda)


def cutmix(images: Tensor, keys: Tensor, partners: Tensor, mix_lambda: Tensor) -> Mixed:
    """Return images in which a box of area 1 - mix_lambda comes from the partner (Yun et al. 2019).

    The box is centred on a random pixel and clipped at the border. The returned `mix_lambda` is the share of each image
    outside the clipped box.
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
    """Mixup and CutMix of the training batches and their labels, with the options of timm's Mixup.

    The partner of an image is in the same batch. The mixed images therefore depend on the batch size and the number of
    devices.

    Args:
        mixup: Parameter alpha of the distribution Beta(alpha, alpha) for mixup; 0 disables mixup.
        cutmix: Parameter alpha of the distribution Beta(alpha, alpha) for CutMix; 0 disables CutMix.
        switch: Probability of CutMix if both are enabled.
        probability: Probability that a batch (or a sample, with `per: sample`) is mixed.
        per: Number of random draws of the operation and the share: one per `batch`, or one per `sample`.

    Raises:
        ConfigError: if a value is out of range, or if mixup and CutMix are both disabled.
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
            raise ConfigError(
                f"data.mixing: mixup is {mixup} and cutmix is {cutmix}; both must be 0 or more, and one of them above 0"
            )
        for field, value in (("switch", switch), ("probability", probability)):
            if not 0 <= value <= 1:
                raise ConfigError(f"data.mixing.{field}: {value} is not in [0, 1]")
        self.mixup, self.cutmix, self.per, self.probability = mixup, cutmix, per, probability
        self.switch = switch if mixup and cutmix else float(cutmix > 0)

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with mixed images, the labels of their partners, and `mix_lambda`; `views` are not mixed."""
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
