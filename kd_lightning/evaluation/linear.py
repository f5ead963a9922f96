"""LinearProbe: how well a linear classifier tells the classes from a frozen embedding."""

from typing import Any, Literal

from kd_lightning.errors import check_positive
from kd_lightning.evaluation.classifiers import logistic_scores, sgd_scores
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator, accuracy
from kd_lightning.evaluation.network_view import NetworkView


class LinearProbe(Evaluator):
    """Logs `test/linear`: the share of test images that a linear classifier on the frozen embedding puts right.

    It is trained on the training images, not augmented. `lbfgs`: scikit-learn's logistic regression on standardised
    embeddings, its C the one, of 7 from 1e-4 to 100, that is best on a fifth of them held out; then all are trained on
    (the protocol of CoSS's transfer, with fewer values of C). `sgd`: CoSS's recipe for ImageNet, on the device, logged
    as `test/linear_sgd`.

    Args:
        solver: `lbfgs` or `sgd`.
        max_iter: of L-BFGS.
        epochs: of SGD.
        **kwargs: teacher, every_n_epochs and data, as for every probe.
    """

    def __init__(
        self, *, solver: Literal["lbfgs", "sgd"] = "lbfgs", max_iter: int = 200, epochs: int = 100, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_positive(**{"LinearProbe.max_iter": max_iter, "LinearProbe.epochs": epochs})
        self.solver, self.max_iter, self.epochs = solver, max_iter, epochs

    @property
    def title(self) -> str:
        return f"{super().title} {self.solver}"

    def evaluate(self, eyes: NetworkView) -> EvaluationResult:
        known, asked, classes = eyes.seen("train"), eyes.seen(), eyes.data.num_classes
        given = known.embedding, known.labels, asked.embedding
        if self.solver == "sgd":
            name, scores = "linear_sgd", sgd_scores(*given, classes=classes, epochs=self.epochs)
        else:
            name, scores = "linear", logistic_scores(*given, classes=classes, max_iter=self.max_iter)
        return EvaluationResult({name: accuracy(scores, asked.labels)})
