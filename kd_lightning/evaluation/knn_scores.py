"""Votes of the nearest labelled images."""

import torch
import torch.nn.functional as F
from torch import Tensor


def knn_scores(
    queries: Tensor, bank: Tensor, labels: Tensor, *, k: int | list[int], temperature: float, classes: int
) -> Tensor:
    """Return the votes N,K of the k nearest labelled images for each class.

    The vote of a class is the sum of exp((cosine - 1) / temperature) over the images of the class among the k nearest
    images. These are the votes of Wu et al. 2018, section 3.4, which the evaluations of DINO and CoSS also use.

    Args:
        queries: Embeddings of the images to classify, N,D.
        bank: Embeddings of the labelled images, M,D.
        labels: Labels of the bank, M int64.
        k: Number of neighbours, at most M. For a list, the votes are N,len(k),K.
        temperature: Temperature of the votes, above 0. With a large value, all votes have nearly equal weights.
        classes: Number of classes K.
    """
    ks = k if isinstance(k, list) else [k]
    with torch.autocast(queries.device.type, enabled=False):
        bank = F.normalize(bank.float(), dim=1)
        parts = []
        for part in F.normalize(queries.float(), dim=1).split(1024):
            nearest = (part @ bank.T).topk(max(ks), dim=1)
            votes = torch.exp((nearest.values - 1) / temperature)  # -1 prevents overflow and does not change the order
            empty, neighbor_labels = torch.zeros(len(part), classes, device=part.device), labels[nearest.indices]
            parts.append(torch.stack([empty.scatter_add(1, neighbor_labels[:, :n], votes[:, :n]) for n in ks], dim=1))
        scores = torch.cat(parts)
    return scores if isinstance(k, list) else scores[:, 0]
