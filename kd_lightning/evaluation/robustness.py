"""Corruptions: accuracy under noise, blur, weather and compression."""

from typing import Any

import torch

from kd_lightning.batch import Batch
from kd_lightning.data.images import ImageDataset
from kd_lightning.data.splits import stratified_split
from kd_lightning.errors import ConfigError, nearest
from kd_lightning.evaluation.corruptions import CORRUPTIONS, corrupt
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator, accuracy
from kd_lightning.evaluation.network_view import NetworkView
from kd_lightning.randomness import sample_keys


class Corruptions(Evaluator):
    """Logs `test/corrupted`: mean accuracy on corrupted test images over all corruptions and severities.

    The 15 corruptions of ImageNet-C (Hendrycks & Dietterich 2019) are computed during the evaluation. Their random
    numbers depend only on the index of the image. All networks and all runs therefore get the same images. If the
    classifier is not trained, the votes of the 10 nearest training images predict the class.

    With a teacher, `test/corrupted_teacher` and `test/corrupted_relative` are logged as well. `test/corrupted_relative`
    is the mCE of Hendrycks & Dietterich with the teacher in place of AlexNet. For each corruption, the sum of the
    student's errors over the severities is divided by the sum of the teacher's errors over the severities. The value is
    the mean of these ratios over the corruptions.

    Args:
        names: Names of the corruptions. Default: all 15.
        severities: Severities from 1 to 5. Default: all.
        images: Number of test images, which are stratified by class. Default: all.
        teacher: Whether the teacher is also evaluated.
    """

    def __init__(
        self,
        *,
        names: list[str] | None = None,
        severities: list[int] | None = None,
        images: int | None = None,
        teacher: bool = True,
    ) -> None:
        super().__init__()
        self.names, self.severities = names or [*CORRUPTIONS], severities or [1, 2, 3, 4, 5]
        for name in self.names:
            if name not in CORRUPTIONS:
                raise ConfigError(f"Corruptions.names: there is no corruption {name!r}{nearest(name, CORRUPTIONS)}")
        if wrong := [severity for severity in self.severities if severity not in range(1, 6)]:
            raise ConfigError(f"Corruptions.severities: {wrong[0]} is not a whole number from 1 to 5")
        if images is not None and images < 1:
            raise ConfigError(f"Corruptions.images: {images} is not positive; omit it to use all images")
        self.images, self.compares_teacher = images, teacher

    def evaluate(self, view: NetworkView) -> EvaluationResult:
        student_accuracies = self._accuracies(view)
        details = {"severities": self.severities, "accuracy": student_accuracies}
        result = EvaluationResult({"corrupted": _mean(student_accuracies)}, {"corruptions": details})
        if self.compares_teacher and view.teacher:
            teacher_accuracies = self._accuracies(view.teacher)
            result.values["corrupted_teacher"] = _mean(teacher_accuracies)
            result.values["corrupted_relative"] = relative_error(student_accuracies, teacher_accuracies)
            details["accuracy_teacher"] = teacher_accuracies
        return result

    def _accuracies(self, view: NetworkView) -> dict[str, list[float]]:
        clean = self._clean(view.data.datasets[view.split])
        return {name: [self._accuracy(view, clean, name, level) for level in self.severities] for name in self.names}

    def _clean(self, images: ImageDataset) -> ImageDataset:
        if self.images is None or self.images >= len(images):
            return images
        rows, hint = torch.arange(len(images)), "omit it to use all images"
        drawn = stratified_split(images.labels, rows, self.images, seed=0, field="Corruptions.images", hint=hint)[1]
        return images.subset(drawn)

    def _accuracy(self, view: NetworkView, clean: ImageDataset, name: str, severity: int) -> float:
        def change(batch: Batch) -> Batch:
            images = batch.images.to(view.cache.device, non_blocking=True)
            keys = sample_keys(0, 0, batch.indices).to(images.device)
            return batch._replace(images=corrupt(images, keys, name, severity))

        predictions = view.cache.read(view.network, view.data, clean, change=change)
        return accuracy(view.scores(predictions), predictions.labels)


def _mean(accuracies: dict[str, list[float]]) -> float:
    return sum(sum(levels) / len(levels) for levels in accuracies.values()) / len(accuracies)


def relative_error(student_accuracies: dict[str, list[float]], teacher_accuracies: dict[str, list[float]]) -> float:
    """Return the mCE of Hendrycks & Dietterich 2019 with the teacher in place of AlexNet.

    For each corruption, the sum of the student's errors over the severities is divided by the sum of the teacher's
    errors over the severities. The result is the mean of these ratios over the corruptions. A corruption is skipped if
    the teacher makes no error. If no corruption remains, the result is NaN.
    """
    ratios: list[Any] = []
    for name, accuracies in student_accuracies.items():
        errors = sum(1 - accuracy for accuracy in teacher_accuracies[name])
        if errors > 0:
            ratios.append(sum(1 - accuracy for accuracy in accuracies) / errors)
    return sum(ratios) / len(ratios) if ratios else float("nan")
