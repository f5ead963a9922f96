"""CosineSimilarityKD: cosines of each class's probabilities over the batch, CSKD with CSWT (Ham et al. 2023)."""

from typing import Any

import torch
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.errors import ConfigError, check_temperature
from kd_lightning.functional import full_precision, soften
from kd_lightning.models import Features, Reads

_EPSILON = 1e-8
"""Number that is added to the product of the lengths in a cosine."""


def _cosines(a: Tensor, b: Tensor, dim: int) -> Tensor:
    return (a * b).sum(dim=dim) / (a.norm(dim=dim) * b.norm(dim=dim) + _EPSILON)


@full_precision
def column_cosine_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float | Tensor, alpha: float = 2.0
) -> Tensor:
    """Return alpha T^2 (1 - mean cosine of the columns of softmax(student / T) and softmax(teacher / T)).

    Column k contains the probabilities of class k for the N samples of the batch. If each sample has its own
    temperature, the factor T^2 is the square of the mean temperature. As in the third-party code, 1e-8 is added to the
    denominator of the cosine. That code also takes the absolute value of the cosine, which is never negative.

    Args:
        student_logits: Logits of the student, N,K.
        teacher_logits: Logits of the teacher, N,K.
        temperature: Temperature T of both softmaxes, above 0: a number, or N numbers, one for each sample.
        alpha: Factor of the loss.
    """
    student, teacher = (soften(logits, temperature).softmax(dim=1) for logits in (student_logits, teacher_logits))
    scale = temperature.mean() if isinstance(temperature, Tensor) else temperature
    return alpha * scale**2 * (1 - _cosines(student, teacher, dim=0).mean())


@torch.no_grad()
@full_precision
def weighted_temperatures(
    student_logits: Tensor, teacher_logits: Tensor, *, low: float = 2.0, high: float = 6.0
) -> Tensor:
    """Return the temperature of each sample, N numbers from `low` to `high`, without gradient (CSWT).

    The temperature is a linear function of the cosine between the student's and the teacher's probabilities of a sample
    (at a temperature of 1). It is `low` for the largest cosine of the batch, and `high` for the smallest. If all
    cosines are equal up to rounding, all temperatures are `low`; the third-party code then divides by 0.

    Args:
        student_logits: Logits of the student, N,K.
        teacher_logits: Logits of the teacher, N,K.
        low: Lowest temperature.
        high: Highest temperature.
    """
    cosines = _cosines(student_logits.softmax(dim=1), teacher_logits.softmax(dim=1), dim=1)
    span = cosines.max() - cosines.min()
    equal = span <= 10 * torch.finfo(span.dtype).eps
    return low + (high - low) * (cosines.max() - cosines) * torch.where(equal, 0.0, 1 / span)


@full_precision
def cosine_similarity_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 4.0,
    low: float = 2.0,
    high: float = 6.0,
    alpha: float = 2.0,
) -> Tensor:
    """Return the sum of `column_cosine_loss` at one temperature and at the temperatures of `weighted_temperatures`.

    The temperatures of the samples are constants for the gradient.

    Args:
        student_logits: Logits of the student, N,K.
        teacher_logits: Logits of the teacher, N,K.
        temperature: Temperature of the first loss.
        low: Lowest temperature of a sample in the second loss.
        high: Highest temperature of a sample in the second loss.
        alpha: Factor of both losses.
    """
    logits = student_logits, teacher_logits
    temperatures = weighted_temperatures(*logits, low=low, high=high)
    return sum(column_cosine_loss(*logits, temperature=t, alpha=alpha) for t in (temperature, temperatures))


class CosineSimilarityKD(Distiller):
    """Cosine similarity of classes (Ham et al. 2023, arXiv 2311.14307, "Cosine Similarity Knowledge Distillation for
    Individual Class Information Transfer").

    For each class, the vector of the student's probabilities over the images of a batch learns the direction of the
    teacher's vector. There are two terms. `cosine` (CSKD) has one temperature. `weighted` (CSWT) has a temperature for
    each image, which is higher if the two networks differ more on the image.

    Only the abstract of the paper was available, and no released code was found. The idea of both terms is of the
    paper. The equations, the temperatures and the factor 2 of each term are of third-party code (llieeai/lud). The
    equal weights are inferred from a review of the paper, which mentions one factor for both terms.

    Args:
        temperature: Temperature of the term `cosine`.
        low: Temperature of the image on which the two networks agree most, in the term `weighted`.
        high: Temperature of the image on which they agree least.
        cosine_weight: Weight of the term `cosine`.
        weighted_weight: Weight of the term `weighted`.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.
    """

    min_batch_size = 2

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        low: float = 2.0,
        high: float = 6.0,
        cosine_weight: float = 1.0,
        weighted_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_temperature(temperature=temperature, low=low, high=high)
        if low > high:
            raise ConfigError(f"low: {low:g} is given, but high is {high:g}; give a temperature of {high:g} or less")
        self.set_weights(cosine_weight=cosine_weight, weighted_weight=weighted_weight)
        self.temperature, self.low, self.high = temperature, low, high

    @property
    def reads(self) -> Reads:
        return Reads(logits=True)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        logits = self.all_gather(student.logits, teacher.logits)
        temperatures = weighted_temperatures(*logits, low=self.low, high=self.high)
        cosine, weighted = (column_cosine_loss(*logits, temperature=t) for t in (self.temperature, temperatures))
        return {"cosine": self.cosine_weight * cosine, "weighted": self.weighted_weight * weighted}
