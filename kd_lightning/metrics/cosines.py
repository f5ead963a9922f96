"""Cosines between many images, computed in chunks of rows."""

from collections.abc import Iterator

import torch
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.functional import normalize

_FLOATS = 1 << 24  # number of cosines per chunk


def cosine_rows(queries: Tensor, bank: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield the N,M float32 cosines in chunks, each with the rows of its queries. Cosines of zero vectors are 0.

    Args:
        queries: Vectors N,D.
        bank: Vectors M,D.

    Raises:
        ConfigError: if the shapes do not match.
    """
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
        shapes = f"{tuple(queries.shape)} and {tuple(bank.shape)}"
        raise ConfigError(f"embeddings: the shapes are {shapes}, but they must be N,D and M,D")
    self_similarity = bank is queries
    with torch.autocast(queries.device.type, enabled=False):
        queries = normalize(queries.detach().float()) if queries.numel() else queries.float()
        bank = queries if self_similarity else normalize(bank.detach().float()) if bank.numel() else bank.float()
    count = max(1, _FLOATS // max(1, len(bank)))
    for start in range(0, len(queries), count):
        rows = slice(start, min(start + count, len(queries)))
        with torch.autocast(queries.device.type, enabled=False):
            cosines = queries[rows] @ bank.T
        yield rows, cosines


def mask_self(cosines: Tensor, rows: slice) -> Tensor:
    """Set the cosine of each image to itself, in place, to a value below all other cosines of the row."""
    index = torch.arange(rows.start, rows.stop, device=cosines.device)
    cosines[index - rows.start, index] = -2  # below any cosine
    return cosines
