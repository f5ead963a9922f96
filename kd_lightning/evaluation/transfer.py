"""Transfer: whether the embedding serves for other images than those of the run."""

from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError
from kd_lightning.evaluation.classifiers import logistic_scores
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator, accuracy, make_ready
from kd_lightning.evaluation.network_view import NetworkView


class Transfer(Evaluator):
    """Logs `test/transfer_<data>`: a linear classifier on the embedding of other images, as `LinearProbe` has it.

    Trained on their training images and evaluated on their test images, all brought to the size of the run's own.

    Args:
        to: data sets with labels.
        teacher: evaluate the teacher too.
    """

    needs_labels = False

    def __init__(self, *, to: list[ImageData], teacher: bool = False) -> None:
        super().__init__(teacher=teacher)
        if not to:
            raise ConfigError("Transfer.to: name one data set at least")
        names = [other.name for other in to]
        if len({*names}) < len(names):
            raise ConfigError(f"Transfer.to: {', '.join(names)}: each name may come once")
        self.to = to

    def prepare(self, data: ImageData) -> None:
        for other in self.to:
            if not other.labeled:
                raise ConfigError(f"Transfer.to: {other.name} has no labels")
            make_ready(other)
            other.setup("fit")
            other.setup("test")

    def evaluate(self, eyes: NetworkView) -> EvaluationResult:
        found = {}
        for other in self.to:
            known, asked = (eyes.seen(split, other) for split in ("train", "test"))
            given = known.embedding, known.labels, asked.embedding
            scores = logistic_scores(*given, classes=other.num_classes)
            found[f"transfer_{other.name}"] = accuracy(scores, asked.labels)
        return EvaluationResult(found)
