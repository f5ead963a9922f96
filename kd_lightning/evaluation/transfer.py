"""Transfer: accuracy of a linear classifier on the embedding for other data sets."""

from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError
from kd_lightning.evaluation.classifiers import logistic_scores
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator, accuracy, prepare_other_data
from kd_lightning.evaluation.network_view import NetworkView


class Transfer(Evaluator):
    """Logs `test/transfer_<data>`: accuracy on other data sets, with the classifier of `LinearProbe`.

    For each data set, the classifier is trained on the training images and evaluated on the test images. All images are
    resized to the size of the run's images.

    Args:
        to: Labelled data sets.
        teacher: Whether the teacher is also evaluated.
    """

    needs_labels = False

    def __init__(self, *, to: list[ImageData], teacher: bool = False) -> None:
        super().__init__(teacher=teacher)
        if not to:
            raise ConfigError("Transfer.to: the list is empty; give at least one data set")
        names = [other.name for other in to]
        if len({*names}) < len(names):
            raise ConfigError(
                f"Transfer.to: {', '.join(names)} are given, but each name may occur only once; remove one"
            )
        self.to = to

    def prepare(self, data: ImageData) -> None:
        for other in self.to:
            if not other.labeled:
                raise ConfigError(f"Transfer.to: {other.name} has no labels; give labelled data")
            prepare_other_data(other)
            other.setup("fit")
            other.setup("test")

    def evaluate(self, view: NetworkView) -> EvaluationResult:
        values = {}
        for other in self.to:
            train, test = (view.predictions(split, other) for split in ("train", "test"))
            data = train.embedding, train.labels, test.embedding
            scores = logistic_scores(*data, classes=other.num_classes)
            values[f"transfer_{other.name}"] = accuracy(scores, test.labels)
        return EvaluationResult(values)
