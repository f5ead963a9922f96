"""Retrieval: whether images of one class find one another in an embedding."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.metrics.cosines import cosine_rows, mask_self


def retrieval(
    embedding: Tensor,
    labels: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    *,
    bank: Tensor | None = None,
    bank_labels: Tensor | None = None,
) -> dict[str, float]:
    """Every image asks for others of its class, by cosine: `map` and, for each k, `recall_<k>`.

    map: the mean over queries of the average precision over the whole ranking (not interpolated). recall_<k>: the share
    of queries with an image of their class among the k nearest. A query never finds itself. Images without another of
    their class, or without a label (-1), ask nothing. All values are NaN where no image asks, or where an
    embedding is not finite. Of images that are equally near, the first in order comes first.

    Args:
        embedding: N,D; computed with in float32.
        labels: N int64.
        ks: each above 0; beyond the number of images it is all of them.
        bank: M,D, to be asked in place of the other images; a query's own image, if it is in there, is found.
        bank_labels: M int64.

    Raises:
        ConfigError: for a k below 1, or shapes that do not fit.
    """
    for k in ks:
        check_positive(k=k)
    if (bank is None) != (bank_labels is None):
        raise ConfigError("bank: give bank and bank_labels, or neither")
    asked, known = (embedding, labels) if bank is None else (bank, bank_labels)
    if labels.shape != embedding.shape[:1] or known.shape != asked.shape[:1]:
        raise ConfigError(f"labels: {len(labels)} and {len(known)} of {len(embedding)} and {len(asked)} images")
    precisions, firsts = [], []
    for rows, cosines in cosine_rows(embedding, asked):
        others = cosines.shape[1]
        if bank is None:
            cosines, others = mask_self(cosines, rows), others - 1
        order = cosines.argsort(dim=1, descending=True, stable=True)[:, :others]
        own = labels[rows, None]
        found = (known[order] == own) & (own >= 0)
        found = found[found.any(dim=1)]
        if found.numel():
            places = torch.arange(1, others + 1, dtype=torch.float64, device=found.device)
            hits = found.cumsum(dim=1)
            precisions.append((found * hits / places).sum(dim=1) / hits[:, -1])
            firsts.append(found.int().argmax(dim=1))
    if not firsts or not (embedding.isfinite().all() and asked.isfinite().all()):
        return {"map": math.nan} | {f"recall_{k}": math.nan for k in ks}
    first = torch.cat(firsts)
    recalls = {f"recall_{k}": (first < k).double().mean().item() for k in ks}
    return {"map": torch.cat(precisions).mean().item()} | recalls
