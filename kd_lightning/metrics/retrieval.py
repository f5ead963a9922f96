"""Retrieval of images of the same class by nearest neighbours in an embedding."""

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
    """Return `map`, and `recall_<k>` for each k. Each image is a query for other images of its class, by cosine.

    `map` is the mean over queries of the average precision over the complete ranking (not interpolated). `recall_<k>`
    is the share of queries with an image of their class among the k nearest images. The image of a query is not ranked.
    Images without another image of their class, or without a label (-1), are not queries. All values are NaN if there
    is no query, or if an embedding is not finite. Images with equal cosines are ranked by position.

    Args:
        embedding: Embeddings of the queries, N,D. They are converted to float32.
        labels: Labels of the queries, N int64.
        ks: Values of k, each above 0. Values above the number of images are replaced by this number.
        bank: Embeddings M,D of images that are ranked instead of the other queries. If they contain the image of a
            query, this image is ranked as well.
        bank_labels: Labels of the bank, M int64.

    Raises:
        ConfigError: if a k is below 1, or if the shapes do not match.
    """
    for k in ks:
        check_positive(k=k)
    if (bank is None) != (bank_labels is None):
        raise ConfigError("bank: give both bank and bank_labels, or neither")
    ranked, ranked_labels = (embedding, labels) if bank is None else (bank, bank_labels)
    if labels.shape != embedding.shape[:1] or ranked_labels.shape != ranked.shape[:1]:
        raise ConfigError(
            f"labels: {len(labels)} and {len(ranked_labels)} labels are given for {len(embedding)} and {len(ranked)} "
            "images; give one label per image"
        )
    precisions, first_hits = [], []
    for rows, cosines in cosine_rows(embedding, ranked):
        others = cosines.shape[1]
        if bank is None:
            cosines, others = mask_self(cosines, rows), others - 1
        order = cosines.argsort(dim=1, descending=True, stable=True)[:, :others]
        query_labels = labels[rows, None]
        relevant = (ranked_labels[order] == query_labels) & (query_labels >= 0)
        relevant = relevant[relevant.any(dim=1)]
        if relevant.numel():
            places = torch.arange(1, others + 1, dtype=torch.float64, device=relevant.device)
            hits = relevant.cumsum(dim=1)
            precisions.append((relevant * hits / places).sum(dim=1) / hits[:, -1])
            first_hits.append(relevant.int().argmax(dim=1))
    if not first_hits or not (embedding.isfinite().all() and ranked.isfinite().all()):
        return {"map": math.nan} | {f"recall_{k}": math.nan for k in ks}
    first = torch.cat(first_hits)
    recalls = {f"recall_{k}": (first < k).double().mean().item() for k in ks}
    return {"map": torch.cat(precisions).mean().item()} | recalls
