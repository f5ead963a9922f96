"""Retrieval: whether images of one class find one another."""

from typing import Any

from kd_lightning.errors import check_positive
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator
from kd_lightning.evaluation.network_view import NetworkView
from kd_lightning.metrics import retrieval


class Retrieval(Evaluator):
    """Logs `test/map` and `test/recall_<k>`: every test image asks for others of its class, by cosine.

    mAP is over the whole ranking of the other test images; recall@k the share of images with one of their class among
    the k nearest.

    Args:
        k: of recall@k.
        **kwargs: teacher, every_n_epochs and data, as for every probe.
    """

    def __init__(self, *, k: list[int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ks = k or [1, 5, 10]
        for each in self.ks:
            check_positive(**{"Retrieval.k": each})

    def evaluate(self, eyes: NetworkView) -> EvaluationResult:
        asked = eyes.seen()
        return EvaluationResult(retrieval(asked.embedding, asked.labels, ks=tuple(self.ks)))
