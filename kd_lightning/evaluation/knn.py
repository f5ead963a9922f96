"""KNN: how well the classes can be told from the nearest training images alone."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.evaluation.probe import Embedded, Probe


def knn_scores(queries: Tensor, bank: Tensor, labels: Tensor, *, k: int, temperature: float, classes: int) -> Tensor:
    """Votes N,K for each class: the sum of exp(cosine / temperature) over its images among the k nearest of the bank.

    Wu et al. 2018, section 3.4, as DINO's and CoSS's evaluation use it.

    Args:
        queries: N,D.
        bank: M,D.
        labels: M int64.
        k: number of neighbours, at most M.
        temperature: above 0; a large one makes all votes equal.
        classes: K.
    """
    with torch.autocast(queries.device.type, enabled=False):
        bank = F.normalize(bank.float(), dim=1)
        parts = []
        for some in F.normalize(queries.float(), dim=1).split(1024):
            near = (some @ bank.T).topk(k, dim=1)
            votes = torch.exp((near.values - 1) / temperature)  # minus 1: the same order, and no overflow
            parts.append(
                torch.zeros(len(some), classes, device=some.device).scatter_add_(1, labels[near.indices], votes)
            )
        return torch.cat(parts)


class KNN(Probe):
    """Logs `test/knn`: the share of test images whose nearest training images vote for their class.

    Args:
        k: neighbours; 10 is CoSS's and TinTeM's.
        temperature: of the votes; 0.07 is DINO's and TinTeM's.
        **kwargs: teacher, every_n_epochs and data, as for every probe.
    """

    name = "knn"

    def __init__(self, *, k: int = 10, temperature: float = 0.07, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive(**{"KNN.k": k, "KNN.temperature": temperature})
        self.k, self.temperature = k, temperature

    def check(self, images: int) -> None:
        if self.k > images:
            raise ConfigError(f"KNN.k: {self.k} neighbours of {images} training images")

    def scores(self, known: Embedded, asked: Tensor, classes: int) -> Tensor:
        return knn_scores(asked, known.vectors, known.labels, k=self.k, temperature=self.temperature, classes=classes)
