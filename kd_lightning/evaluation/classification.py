"""Classification: accuracy, calibration and per-class results of a trained classifier."""

from typing import Any

from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator
from kd_lightning.evaluation.network_view import NetworkView, Predictions
from kd_lightning.metrics import classification as metric

MAX_CONFUSION_CLASSES = 200
"""Largest number of classes for which the confusion matrix is stored."""


class Classification(Evaluator):
    """Logs top-5 accuracy, likelihood and calibration on the test images, before and after temperature scaling.

    The names are `test/top5` (only with more than 5 classes), `test/nll`, `test/brier` and `test/ece`. The values after
    temperature scaling are `test/nll_scaled` and `test/ece_scaled`. ECE uses 15 bins (Guo et al. 2017). The temperature
    is fitted on the validation images. Without validation images, the scaled values are skipped.

    The accuracy of each class and the reliability diagram are written to results.json. For at most 200 classes, the
    confusion matrix is also written to this file. The prediction for each image is written to predictions.safetensors.
    The command line adds this evaluator to every run that has labels and trains a classifier.

    Args:
        teacher: Whether the teacher is also evaluated, if its classifier was trained on the classes of the data. The
            accuracy of the teacher is logged as `test/acc_teacher`.
        every_n_epochs: Number of epochs between two evaluations of the validation images during `fit`; 0 disables them.
    """

    def __init__(self, *, teacher: bool = True, every_n_epochs: int = 0) -> None:
        super().__init__(teacher=teacher, every_n_epochs=every_n_epochs)

    def evaluate(self, view: NetworkView) -> EvaluationResult:
        if not view.knows_classes:
            return EvaluationResult({})
        predictions = view.predictions()
        result = _metrics(predictions)
        if view.split == "test":
            view.data.setup("fit")
            if "val" in view.data.datasets:
                val_predictions = view.predictions("val")
                temperature = metric.fit_temperature(val_predictions.logits, val_predictions.labels)
                scaled = _calibration_errors(predictions.logits / temperature, predictions.labels)
                result.values |= {f"{name}_scaled": value for name, value in scaled.items()}
                result.details["calibration"]["temperature"] = temperature
        if view.is_student:
            result.samples |= _samples(view, predictions)
        else:  # the student's accuracy is always logged
            result.values["acc"] = float((predictions.logits.argmax(dim=1) == predictions.labels).double().mean())
        return result


def _metrics(predictions: Predictions) -> EvaluationResult:
    logits, labels = predictions.logits, predictions.labels
    values = _calibration_errors(logits, labels) | {"brier": float(metric.brier(logits, labels))}
    if logits.shape[1] > 5:
        values["top5"] = float(multiclass_accuracy(logits, labels, logits.shape[1], average="micro", top_k=5))
    confusion = metric.confusion(logits, labels)
    accuracy, count = metric.per_class(confusion)
    bins = metric.reliability(logits, labels)
    details: dict[str, Any] = {
        "per_class": {"accuracy": accuracy.tolist(), "count": count.tolist()},
        "calibration": {name: part.tolist() for name, part in bins._asdict().items()},
    }
    if len(confusion) <= MAX_CONFUSION_CLASSES:
        details["confusion"] = confusion.tolist()
    return EvaluationResult(values, details)


def _calibration_errors(logits: Tensor, labels: Tensor) -> dict[str, float]:
    return {"nll": float(metric.nll(logits, labels)), "ece": float(metric.ece(logits, labels))}


def _samples(view: NetworkView, predictions: Predictions) -> dict[str, Tensor]:
    confidence, prediction = predictions.logits.softmax(dim=1).max(dim=1)
    samples = {
        "labels": predictions.labels,
        "indices": predictions.indices,
        "prediction": prediction,
        "confidence": confidence,
    }
    if view.teacher and view.teacher.knows_classes:
        samples["teacher_prediction"] = view.teacher.predictions().logits.argmax(dim=1)
    return samples
