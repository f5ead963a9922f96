"""Corruptions: how a student stands noise, blur, weather and compression."""

from typing import Any

import torch

from kd_lightning.batch import Batch
from kd_lightning.data.images import ImageDataset
from kd_lightning.data.splits import draw
from kd_lightning.errors import ConfigError, nearest
from kd_lightning.evaluation.corruptions import CORRUPTIONS, corrupt
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator, accuracy
from kd_lightning.evaluation.network_view import NetworkView
from kd_lightning.randomness import sample_keys


class Corruptions(Evaluator):
    """Logs `test/corrupted`: accuracy on corrupted test images, the mean over corruptions and severities.

    The 15 corruptions of ImageNet-C (Hendrycks & Dietterich 2019), made on the way, each a function of the image's
    index alone, so that every network and run meets the same. Beside a teacher, `test/corrupted_relative`: the mean
    over corruptions of the student's error, summed over severities, divided by the teacher's (their mCE, with the
    teacher in AlexNet's place), and `test/corrupted_teacher`. Where the classifier is not trained, classes are by
    the votes of the 10 nearest training images.

    Args:
        names: of the corruptions; default: all 15.
        severities: of 1 to 5; default: all.
        images: how many test images, drawn class by class; default: all.
        teacher: evaluate the teacher too.
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
                raise ConfigError(f"Corruptions.names: there is no {name!r}{nearest(name, CORRUPTIONS)}")
        if wrong := [severity for severity in self.severities if severity not in range(1, 6)]:
            raise ConfigError(f"Corruptions.severities: {wrong[0]} is not 1 to 5")
        if images is not None and images < 1:
            raise ConfigError(f"Corruptions.images: {images} is not positive; leave it out for all")
        self.images, self.beside = images, teacher

    def evaluate(self, eyes: NetworkView) -> EvaluationResult:
        ours = self._accuracies(eyes)
        found = EvaluationResult(
            {"corrupted": _mean(ours)}, {"corruptions": {"severities": self.severities, "accuracy": ours}}
        )
        if self.beside and eyes.teacher:
            theirs = self._accuracies(eyes.teacher)
            found.values |= {"corrupted_teacher": _mean(theirs), "corrupted_relative": relative_error(ours, theirs)}
            found.details["corruptions"]["accuracy_teacher"] = theirs
        return found

    def _accuracies(self, eyes: NetworkView) -> dict[str, list[float]]:
        clean = self._clean(eyes.data.datasets[eyes.split])
        return {name: [self._accuracy(eyes, clean, name, level) for level in self.severities] for name in self.names}

    def _clean(self, images: ImageDataset) -> ImageDataset:
        if self.images is None or self.images >= len(images):
            return images
        rows, otherwise = torch.arange(len(images)), "or left out for all"
        drawn = draw(images.labels, rows, self.images, seed=0, field="Corruptions.images", otherwise=otherwise)[1]
        return images.subset(drawn)

    def _accuracy(self, eyes: NetworkView, clean: ImageDataset, name: str, severity: int) -> float:
        def change(batch: Batch) -> Batch:
            images = batch.images.to(eyes.reader.device, non_blocking=True)
            keys = sample_keys(0, 0, batch.indices).to(images.device)
            return batch._replace(images=corrupt(images, keys, name, severity))

        seen = eyes.reader.read(eyes.network, eyes.data, clean, change=change)
        return accuracy(eyes.scores(seen), seen.labels)


def _mean(accuracies: dict[str, list[float]]) -> float:
    return sum(sum(each) / len(each) for each in accuracies.values()) / len(accuracies)


def relative_error(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> float:
    """The mean over corruptions of the error summed over severities, in units of the other's (mCE's formula).

    A corruption at which the other never errs is left out; NaN where that is all of them.
    """
    shares: list[Any] = []
    for name, each in ours.items():
        errors = sum(1 - reached for reached in theirs[name])
        if errors > 0:
            shares.append(sum(1 - reached for reached in each) / errors)
    return sum(shares) / len(shares) if shares else float("nan")
