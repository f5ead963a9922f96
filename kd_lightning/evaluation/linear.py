"""LinearProbe: accuracy of a linear classifier on the frozen embedding."""

from typing import Any, Literal

from kd_lightning.errors import check_positive
from kd_lightning.evaluation.classifiers import logistic_scores, sgd_scores
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator, accuracy
from kd_lightning.evaluation.network_view import NetworkView


class LinearProbe(Evaluator):
    """Logs `test/linear`: accuracy of a linear classifier on the frozen embedding.

    The classifier is trained on the training images without augmentation. With `lbfgs`, it is scikit-learn's logistic
    regression on standardised embeddings. A fifth of the images is held out to select C among 7 values from 1e-4 to
    100. The classifier is then trained on all images. This is the protocol of CoSS's transfer evaluation, with fewer
    values of C. With `sgd`, the classifier is trained on the device of the run with CoSS's recipe for ImageNet, and the
    accuracy is logged as `test/linear_sgd`.

    Args:
        solver: Algorithm of the training, `lbfgs` or `sgd`.
        max_iter: Maximum number of L-BFGS iterations.
        epochs: Number of SGD epochs.
        **kwargs: Arguments of every evaluator: teacher, every_n_epochs and data.
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

    def evaluate(self, view: NetworkView) -> EvaluationResult:
        train, test, classes = view.predictions("train"), view.predictions(), view.data.num_classes
        data = train.embedding, train.labels, test.embedding
        if self.solver == "sgd":
            name, scores = "linear_sgd", sgd_scores(*data, classes=classes, epochs=self.epochs)
        else:
            name, scores = "linear", logistic_scores(*data, classes=classes, max_iter=self.max_iter)
        return EvaluationResult({name: accuracy(scores, test.labels)})
