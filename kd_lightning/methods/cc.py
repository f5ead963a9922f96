"""CC: correlation congruence between the images of a batch (Peng et al. 2019)."""

import math
from itertools import accumulate
from typing import Any, Literal

from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.distillation.adapters import linear
from kd_lightning.errors import check_positive
from kd_lightning.functional import full_precision, normalize
from kd_lightning.models import Features, Reads


@full_precision
def correlation_loss(student: Tensor, teacher: Tensor, *, gamma: float = 0.4, order: int = 2) -> Tensor:
    """Return the mean squared difference between the correlation matrices N,N of student and teacher (paper, Eq. 5).

    The correlation of two samples is their Gaussian kernel exp(-gamma |a - b|^2), where a and b have length 1. It is
    replaced by its Taylor expansion exp(-2 gamma) sum_p (2 gamma)^p / p! (a^T b)^p, with p from 0 to `order` (Eq. 10).

    Args:
        student: Vectors of the student, N,D.
        teacher: Vectors of the teacher, N,E.
        gamma: Factor of the squared distance, above 0.
        order: Largest exponent of the expansion, 1 or more.
    """

    def correlations(vectors: Tensor) -> Tensor:
        unit = normalize(vectors)
        first = 2 * gamma * (unit @ unit.T)
        terms = accumulate(range(2, order + 1), lambda term, p: term * first / p, initial=first)
        return math.exp(-2 * gamma) * sum(terms)  # the constant of p = 0 is the same for both networks

    return (correlations(student) - correlations(teacher)).square().mean()


@full_precision
def neighbor_correlation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over i of the inner product of d_i and d_{i+1}, with d = |student - teacher| (CC's code).

    d_i contains the absolute differences of all entries of sample i. The loss depends on the order of the samples. The
    loss of one sample is 0.

    Args:
        student: Embeddings of the student, N,D.
        teacher: Embeddings of the teacher, N,D.
    """
    differences = (student - teacher).abs()
    products = (differences[:-1] * differences[1:]).sum()
    return products / max(len(differences) - 1, 1)


class CC(Distiller):
    """Correlation congruence (Peng et al. 2019, "Correlation Congruence for Knowledge Distillation").

    The student learns the relations between the images of a batch. A linear layer of each network maps its embedding to
    `width` values. Both layers are trained, also that of the teacher, and dropped after training.

    There are two forms. The code that the authors gave to RepDistiller, by which all tables with RepDistiller's figures
    were made, multiplies the differences of two consecutive images of the batch (`neighbors`). The paper compares the
    correlations of all pairs of images (`kernel`). *Of the paper*: the equation, `gamma` and `order` of `kernel`. *Of
    the released code*: `neighbors`, the linear layers, and the weight. *Inferred*: the same linear layers in the form
    `kernel`, whose weight is not known. Because its loss is a mean of small numbers, it needs a larger weight.

    Args:
        form: `neighbors` (released code) or `kernel` (paper).
        width: Width of the embeddings that are compared.
        gamma: Factor of the squared distance, for `kernel`.
        order: Largest exponent of the Taylor expansion, for `kernel`.
        cc_weight: Weight of the loss. The default is that of `neighbors` in RepDistiller.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.
    """

    min_batch_size = 2

    def __init__(
        self,
        *,
        form: Literal["neighbors", "kernel"] = "neighbors",
        width: int = 128,
        gamma: float = 0.4,
        order: int = 2,
        cc_weight: float = 0.02,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_positive(width=width, gamma=gamma, order=order)
        self.set_weights(cc_weight=cc_weight)
        self.form, self.gamma, self.order = form, gamma, order
        self.head = linear(self.student.embedding_width, width)
        self.teacher_head = linear(self.teacher.embedding_width, width)

    @property
    def reads(self) -> Reads:
        return Reads(embedding=True)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        pair = self.all_gather(self.head(student.embedding), self.teacher_head(teacher.embedding))
        if self.form == "kernel":
            return {"cc": self.cc_weight * correlation_loss(*pair, gamma=self.gamma, order=self.order)}
        return {"cc": self.cc_weight * neighbor_correlation_loss(*pair)}
