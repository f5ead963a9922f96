"""FewShot: how well the classes can be told from a few images of each."""

from typing import Any

import torch
from torch import Tensor

from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.evaluation.classifiers import logistic_scores
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator, accuracy
from kd_lightning.evaluation.network_view import NetworkView


class FewShot(Evaluator):
    """Logs `test/few_shot_<n>`: accuracy of a logistic regression on n training images a class.

    scikit-learn's by L-BFGS on standardised embeddings, C = 1; the mean over several draws of the images, which are the
    same for every network and run on the same data.

    Args:
        shots: images of each class.
        draws: how often they are drawn.
        **kwargs: teacher, every_n_epochs and data, as for every probe.

    Raises:
        ConfigError: for a class with fewer images.
    """

    def __init__(self, *, shots: int | list[int] = 5, draws: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shots = shots if isinstance(shots, list) else [shots]
        for each in self.shots:
            check_positive(**{"FewShot.shots": each})
        check_positive(**{"FewShot.draws": draws})
        self.draws = draws

    def check_data(self, data: ImageData) -> None:
        super().check_data(data)
        few_of_each((self.data or data).datasets["train"].labels, max(self.shots), 0)

    def evaluate(self, eyes: NetworkView) -> EvaluationResult:
        known, asked, classes = eyes.seen("train"), eyes.seen(), eyes.data.num_classes
        found = {}
        for shots in self.shots:
            reached = []
            for draw in range(self.draws):
                rows = few_of_each(known.labels, shots, draw)
                scores = logistic_scores(
                    known.embedding[rows], known.labels[rows], asked.embedding, classes=classes, strengths=[1.0]
                )
                reached.append(accuracy(scores, asked.labels))
            found[f"few_shot_{shots}"] = sum(reached) / len(reached)
        return EvaluationResult(found)


def few_of_each(labels: Tensor, shots: int, draw: int) -> Tensor:
    """Rows of `shots` images of each class of N labels, drawn by a seed of `draw`.

    Raises:
        ConfigError: for a class with fewer images.
    """
    generator = torch.Generator().manual_seed(draw)
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    order = order[labels[order].sort(stable=True).indices]  # by class, each class's own in random order
    counts = labels.bincount()
    fewest = int(counts[counts > 0].min())
    if fewest < shots:
        rare = int((counts == fewest).nonzero()[0])
        raise ConfigError(f"FewShot.shots: {shots} images of each class, and class {rare} has {fewest} for training")
    starts = counts.cumsum(0) - counts
    return torch.cat([order[start : start + shots] for start in starts[counts > 0].tolist()])
