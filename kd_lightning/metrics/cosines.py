"""Cosines between many images, some rows at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.functional import normalize

_FLOATS = 1 << 24  # of one piece's cosines


def cosine_rows(queries: Tensor, bank: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Pieces of the N,M float32 cosines, with the rows of `queries` that each is of; 0 to a vector that is all zero.

    Args:
        queries: N,D.
        bank: M,D.

    Raises:
        ConfigError: for shapes that do not fit.
    """
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
        raise ConfigError(f"embeddings: {tuple(queries.shape)} and {tuple(bank.shape)}; they must be N,D and M,D")
    own = bank is queries
    with torch.autocast(queries.device.type, enabled=False):
        queries = normalize(queries.detach().float()) if queries.numel() else queries.float()
        bank = queries if own else normalize(bank.detach().float()) if bank.numel() else bank.float()
    count = max(1, _FLOATS // max(1, len(bank)))
    for start in range(0, len(queries), count):
        rows = slice(start, min(start + count, len(queries)))
        with torch.autocast(queries.device.type, enabled=False):
            cosines = queries[rows] @ bank.T
        yield rows, cosines


def mask_self(cosines: Tensor, rows: slice) -> Tensor:
    """Puts each image behind all others in its own row, in place."""
    own = torch.arange(rows.start, rows.stop, device=cosines.device)
    cosines[own - rows.start, own] = -2  # below any cosine
    return cosines
