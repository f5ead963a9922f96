"""LinearCKA: how alike two embeddings are, whatever their widths, by their Gram matrices."""

from typing import Any

import torch
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.metrics.states import Sums

LEAST = 4
"""Images that the unbiased estimate needs."""


class LinearCKA(Sums):
    """Centred kernel alignment with linear kernels, unbiased, over minibatches: about 0 to 1.

    HSIC_1(XY) / sqrt(HSIC_1(XX) HSIC_1(YY)), each the mean over minibatches of the unbiased estimate of Song et al.
    2012 (Nguyen, Raghu, Kornblith 2021, eqs. 3 to 5). 1 for embeddings that are equal up to rotation, scale and shift,
    about 0, above or below, for independent ones. NaN where one of them is constant, or no minibatch has 4 images.

    Each update is one minibatch, so that the minibatches are the loader's. Each counts alike, of whatever size.
    `left_out` counts the images of those with fewer than 4.
    """

    higher_is_better = True
    both: Tensor
    ours: Tensor
    theirs: Tensor
    left_out: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("both", "ours", "theirs", "left_out", **kwargs)

    def update(self, ours: Tensor, theirs: Tensor) -> None:
        """Adds a minibatch: N,... and N,..., flattened behind N."""
        check_pair(ours, theirs)
        if len(ours) < LEAST:
            self.left_out += len(ours)
            return
        both, own, other = _hsics(ours, theirs)
        self.both += both
        self.ours += own
        self.theirs += other

    def compute(self) -> Tensor:
        """A float64 scalar."""
        return _aligned(self.both, self.ours, self.theirs)


def linear_cka(ours: Tensor, theirs: Tensor) -> Tensor:
    """`LinearCKA` of N,... and N,... as one batch: a float64 scalar, NaN for fewer than 4 images.

    Takes N x D x E or N x N x (D + E) steps, whichever matrix is smaller: 50,000 images need no N x N.
    """
    check_pair(ours, theirs)
    if len(ours) < LEAST:
        return torch.full((), torch.nan, dtype=torch.float64, device=ours.device)
    return _aligned(*_hsics(ours, theirs))


def check_pair(ours: Tensor, theirs: Tensor) -> None:
    """Refuses embeddings of different numbers of images.

    Raises:
        ConfigError: with both shapes.
    """
    if min(ours.ndim, theirs.ndim) < 2 or len(ours) != len(theirs):
        shapes = f"{tuple(ours.shape)} and {tuple(theirs.shape)}"
        raise ConfigError(f"embeddings: {shapes}; they must be N,D and N,E of the same N images")


def _aligned(both: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
    size = ours.sqrt() * theirs.sqrt()
    return torch.where(size == 0, torch.nan, both / size)


def _hsics(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, y = (_centred(rows.detach().flatten(1).double()) for rows in (ours, theirs))
    return _hsic(x, y), _own_hsic(x), _own_hsic(y)


def _centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(dim=0)  # the estimate does not see a shift, but a large one would take its digits


def _hsic(x: Tensor, y: Tensor) -> Tensor:
    """Song et al. 2012, eq. 5, of centred rows N,D and N,E, for which it is the same."""
    n = len(x)
    inner = (x @ x.T * (y @ y.T)).sum() if n < max(x.shape[1], y.shape[1]) else (x.T @ y).square().sum()
    diagonals = [rows.square().sum(dim=1) for rows in (x, y)]
    k, m = (rows @ rows.sum(dim=0) - own for rows, own in zip((x, y), diagonals, strict=True))  # without the diagonal
    trace = inner - (diagonals[0] * diagonals[1]).sum()
    return (trace + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k * m).sum() / (n - 2)) / (n * (n - 3))


def _own_hsic(x: Tensor) -> Tensor:
    """Never negative; 0 where what is left is rounding alone, as for one image that differs from all others."""
    own = _hsic(x, x)
    return torch.where(own <= 1e-12 * x.square().sum(dim=1).mean().square(), torch.zeros_like(own), own)
