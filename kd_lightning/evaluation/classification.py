"""Classification: what a classifier's logits are worth: accuracy, calibration, each class by itself."""

from typing import Any

from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator
from kd_lightning.evaluation.network_view import NetworkView, Predictions
from kd_lightning.metrics import classification as metric

CONFUSED = 200
"""Classes up to which the confusion matrix is kept."""


class Classification(Evaluator):
    """Logs `test/top5`, `nll`, `brier`, `ece`, and `nll_scaled`, `ece_scaled` after temperature scaling.

    ECE has 15 bins (Guo et al. 2017). The temperature is fitted on the validation images, and left out where there are
    none. Each class's accuracy, the confusion matrix and the reliability diagram go to results.json, what is said of
    each image to predictions.safetensors. The command line adds this evaluator, and evaluates the teacher too, in
    every run whose classifier is trained.

    Args:
        teacher: evaluate the teacher too, where it knows the classes; its accuracy is `test/acc_teacher`.
        every_n_epochs: how often the validation images are evaluated during `fit`.
    """

    def __init__(self, *, teacher: bool = True, every_n_epochs: int = 0) -> None:
        super().__init__(teacher=teacher, every_n_epochs=every_n_epochs)

    def evaluate(self, eyes: NetworkView) -> EvaluationResult:
        if not eyes.knows_classes:
            return EvaluationResult({})
        seen = eyes.seen()
        found = _evaluated(seen)
        if eyes.split == "test":
            eyes.data.setup("fit")
            if "val" in eyes.data.datasets:
                held_out = eyes.seen("val")
                temperature = metric.fit_temperature(held_out.logits, held_out.labels)
                scaled = _calibrated(seen.logits / temperature, seen.labels)
                found.values |= {f"{name}_scaled": value for name, value in scaled.items()}
                found.details["calibration"]["temperature"] = temperature
        if eyes.is_student:
            found.samples |= _samples(eyes, seen)
        else:  # the student's is logged anyway
            found.values["acc"] = float((seen.logits.argmax(dim=1) == seen.labels).double().mean())
        return found


def _evaluated(seen: Predictions) -> EvaluationResult:
    logits, labels = seen.logits, seen.labels
    values = _calibrated(logits, labels) | {"brier": float(metric.brier(logits, labels))}
    if logits.shape[1] > 5:
        values["top5"] = float(multiclass_accuracy(logits, labels, logits.shape[1], average="micro", top_k=5))
    confusion = metric.confusion(logits, labels)
    right, count = metric.per_class(confusion)
    bins = metric.reliability(logits, labels)
    details: dict[str, Any] = {
        "per_class": {"accuracy": right.tolist(), "count": count.tolist()},
        "calibration": {name: part.tolist() for name, part in bins._asdict().items()},
    }
    if len(confusion) <= CONFUSED:
        details["confusion"] = confusion.tolist()
    return EvaluationResult(values, details)


def _calibrated(logits: Tensor, labels: Tensor) -> dict[str, float]:
    return {"nll": float(metric.nll(logits, labels)), "ece": float(metric.ece(logits, labels))}


def _samples(eyes: NetworkView, seen: Predictions) -> dict[str, Tensor]:
    confidence, prediction = seen.logits.softmax(dim=1).max(dim=1)
    samples = {"labels": seen.labels, "indices": seen.indices, "prediction": prediction, "confidence": confidence}
    if eyes.teacher and eyes.teacher.knows_classes:
        samples["teacher_prediction"] = eyes.teacher.seen().logits.argmax(dim=1)
    return samples
