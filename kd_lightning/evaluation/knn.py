"""KNN: accuracy of a weighted nearest-neighbour classifier on the embedding."""

from typing import Any

from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator, accuracy
from kd_lightning.evaluation.knn_scores import knn_scores
from kd_lightning.evaluation.network_view import NetworkView


class KNN(Evaluator):
    """Logs `test/knn`: accuracy of a classifier in which the nearest training images vote for the class.

    Args:
        k: Number of neighbours (CoSS and TinTeM: 10), or a list of numbers (DINO: 10, 20, 100, 200). For a list, the
            result of the first number is logged as `test/knn`, and the other results as `test/knn_<k>`.
        temperature: Temperature of the votes (DINO and TinTeM: 0.07).
        **kwargs: Arguments of every evaluator: teacher, every_n_epochs and data.
    """

    def __init__(self, *, k: int | list[int] = 10, temperature: float = 0.07, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ks = k if isinstance(k, list) else [k]
        if not self.ks or len({*self.ks}) < len(self.ks):
            raise ConfigError(f"KNN.k: {k} must contain at least one number of neighbours, and each number only once")
        for number in self.ks:
            check_positive(**{"KNN.k": number})
        check_positive(**{"KNN.temperature": temperature})
        self.temperature = temperature

    def check(self, images: int) -> None:
        if max(self.ks) > images:
            raise ConfigError(
                f"KNN.k: {max(self.ks)} is given, but there are only {images} training images; give at most {images}"
            )

    def evaluate(self, view: NetworkView) -> EvaluationResult:
        train, test, classes = view.predictions("train"), view.predictions(), view.data.num_classes
        votes = knn_scores(
            test.embedding, train.embedding, train.labels, k=self.ks, temperature=self.temperature, classes=classes
        )
        names = ["knn", *(f"knn_{k}" for k in self.ks[1:])]
        return EvaluationResult({name: accuracy(votes[:, n], test.labels) for n, name in enumerate(names)})
