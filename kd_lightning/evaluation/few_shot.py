"""FewShot: accuracy of a classifier trained on a few images of each class."""

from typing import Any

import torch
from torch import Tensor

from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.evaluation.classifiers import logistic_scores
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator, accuracy
from kd_lightning.evaluation.network_view import NetworkView


class FewShot(Evaluator):
    """Logs `test/few_shot_<n>`: accuracy of a logistic regression trained on n images per class.

    The classifier is scikit-learn's logistic regression (L-BFGS, C = 1) on standardised embeddings. The value is the
    mean over several random draws of the images. All networks and all runs on the same data use the same draws.

    Args:
        shots: Number of images per class, or a list of such numbers.
        draws: Number of draws.
        **kwargs: Arguments of every evaluator: teacher, every_n_epochs and data.

    Raises:
        ConfigError: if `shots` is more than the number of training images of a class.
    """

    def __init__(self, *, shots: int | list[int] = 5, draws: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shots = shots if isinstance(shots, list) else [shots]
        for number in self.shots:
            check_positive(**{"FewShot.shots": number})
        check_positive(**{"FewShot.draws": draws})
        self.draws = draws

    def check_data(self, data: ImageData) -> None:
        super().check_data(data)
        sample_per_class((self.data or data).datasets["train"].labels, max(self.shots), 0)

    def evaluate(self, view: NetworkView) -> EvaluationResult:
        train, test, classes = view.predictions("train"), view.predictions(), view.data.num_classes
        values = {}
        for shots in self.shots:
            accuracies = []
            for draw in range(self.draws):
                rows = sample_per_class(train.labels, shots, draw)
                scores = logistic_scores(
                    train.embedding[rows], train.labels[rows], test.embedding, classes=classes, strengths=[1.0]
                )
                accuracies.append(accuracy(scores, test.labels))
            values[f"few_shot_{shots}"] = sum(accuracies) / len(accuracies)
        return EvaluationResult(values)


def sample_per_class(labels: Tensor, shots: int, draw: int) -> Tensor:
    """Return the rows of randomly drawn images, `shots` of each class.

    Args:
        labels: Labels of all images, N int64.
        shots: Number of images per class.
        draw: Seed of the draw.

    Raises:
        ConfigError: if a class has fewer than `shots` images.
    """
    generator = torch.Generator().manual_seed(draw)
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    order = order[labels[order].sort(stable=True).indices]  # sorted by class, random within a class
    counts = labels.bincount()
    fewest = int(counts[counts > 0].min())
    if fewest < shots:
        smallest = int((counts == fewest).nonzero()[0])
        raise ConfigError(
            f"FewShot.shots: {shots} images per class are given, but class {smallest} has {fewest} training images; "
            f"give at most {fewest}"
        )
    starts = counts.cumsum(0) - counts
    return torch.cat([order[start : start + shots] for start in starts[counts > 0].tolist()])
