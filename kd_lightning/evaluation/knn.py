"""KNN: how well the classes can be told from the nearest training images alone."""

from typing import Any

from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator, accuracy
from kd_lightning.evaluation.network_view import NetworkView
from kd_lightning.evaluation.votes import knn_scores


class KNN(Evaluator):
    """Logs `test/knn`: the share of test images whose nearest training images vote for their class.

    Args:
        k: neighbours; 10 is CoSS's and TinTeM's. Of several (DINO's are 10, 20, 100, 200) the first is `test/knn`, the
            others `test/knn_<k>`.
        temperature: of the votes; 0.07 is DINO's and TinTeM's.
        **kwargs: teacher, every_n_epochs and data, as for every probe.
    """

    def __init__(self, *, k: int | list[int] = 10, temperature: float = 0.07, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ks = k if isinstance(k, list) else [k]
        if not self.ks or len({*self.ks}) < len(self.ks):
            raise ConfigError(f"KNN.k: {k} is to name each number of neighbours once")
        for each in self.ks:
            check_positive(**{"KNN.k": each})
        check_positive(**{"KNN.temperature": temperature})
        self.temperature = temperature

    def check(self, images: int) -> None:
        if max(self.ks) > images:
            raise ConfigError(f"KNN.k: {max(self.ks)} neighbours of {images} training images")

    def evaluate(self, eyes: NetworkView) -> EvaluationResult:
        known, asked, classes = eyes.seen("train"), eyes.seen(), eyes.data.num_classes
        votes = knn_scores(
            asked.embedding, known.embedding, known.labels, k=self.ks, temperature=self.temperature, classes=classes
        )
        names = ["knn", *(f"knn_{k}" for k in self.ks[1:])]
        return EvaluationResult({name: accuracy(votes[:, n], asked.labels) for n, name in enumerate(names)})
