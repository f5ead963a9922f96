"""Retrieval: whether the nearest images have the same class."""

from typing import Any

from kd_lightning.errors import check_positive
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator
from kd_lightning.evaluation.network_view import NetworkView
from kd_lightning.metrics import retrieval


class Retrieval(Evaluator):
    """Logs `test/map` and `test/recall_<k>`: retrieval of test images of the same class by cosine.

    Every test image is a query, and the other test images are ranked by their cosine to the query. mAP uses the
    complete ranking. recall@k is the share of queries with an image of the same class among the k nearest images.

    Args:
        k: Values of k for recall@k. Default: 1, 5 and 10.
        **kwargs: Arguments of every evaluator: teacher, every_n_epochs and data.
    """

    def __init__(self, *, k: list[int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ks = k or [1, 5, 10]
        for number in self.ks:
            check_positive(**{"Retrieval.k": number})

    def evaluate(self, view: NetworkView) -> EvaluationResult:
        test = view.predictions()
        return EvaluationResult(retrieval(test.embedding, test.labels, ks=tuple(self.ks)))
