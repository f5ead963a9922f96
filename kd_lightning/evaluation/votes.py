"""The votes of the nearest images whose class is known."""

import torch
import torch.nn.functional as F
from torch import Tensor


def knn_scores(
    queries: Tensor, bank: Tensor, labels: Tensor, *, k: int | list[int], temperature: float, classes: int
) -> Tensor:
    """Votes N,K for each class: the sum of exp(cosine / temperature) over its images among the k nearest of the bank.

    Wu et al. 2018, section 3.4, as DINO's and CoSS's evaluation use it.

    Args:
        queries: N,D.
        bank: M,D.
        labels: M int64.
        k: number of neighbours, at most M; of several, the votes are N,len(k),K.
        temperature: above 0; a large one makes all votes equal.
        classes: K.
    """
    several = k if isinstance(k, list) else [k]
    with torch.autocast(queries.device.type, enabled=False):
        bank = F.normalize(bank.float(), dim=1)
        parts = []
        for some in F.normalize(queries.float(), dim=1).split(1024):
            near = (some @ bank.T).topk(max(several), dim=1)
            votes = torch.exp((near.values - 1) / temperature)  # minus 1: the same order, and no overflow
            empty, given = torch.zeros(len(some), classes, device=some.device), labels[near.indices]
            parts.append(torch.stack([empty.scatter_add(1, given[:, :n], votes[:, :n]) for n in several], dim=1))
        found = torch.cat(parts)
    return found if isinstance(k, list) else found[:, 0]
