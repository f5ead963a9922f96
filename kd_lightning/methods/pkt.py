"""PKT: probabilistic knowledge transfer (Passalis & Tefas 2018)."""

from typing import Any

from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.functional import full_precision, normalize
from kd_lightning.models import Features, Reads

_EPSILON = 1e-7


@full_precision
def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean over N,N of p log(p / q), p the teacher's and q the student's probabilities of each other sample.

    A row of probabilities is (1 + cosine) / 2 of a sample with all, itself included, divided by their sum. The mean,
    and 1e-7 in the logarithm, are the released code's; a divergence would be N times that.

    Args:
        student: N,D.
        teacher: N,E.
    """
    q, p = (_neighborhoods(x) for x in (student, teacher))
    return (p * ((p + _EPSILON).log() - (q + _EPSILON).log())).mean()


def _neighborhoods(vectors: Tensor) -> Tensor:
    vectors = normalize(vectors)
    likeness = (vectors @ vectors.T + 1) / 2
    return likeness / likeness.sum(dim=1, keepdim=True)


class PKT(Distiller):
    """Probabilities (Passalis & Tefas 2018, "Learning Deep Representations with Probabilistic Knowledge Transfer").

    The student's embeddings are to be neighbours of each other as probably as the teacher's are.

    Args:
        pkt_weight: weight of the divergence; the released code's and RepDistiller's.
        **kwargs: teacher, ce_weight, kd_weight, student, optimizer and lr_scheduler, as for every distiller.
    """

    min_batch_size = 2

    def __init__(self, *, pkt_weight: float = 30000.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set_weights(pkt_weight=pkt_weight)

    @property
    def reads(self) -> Reads:
        return Reads(embedding=True)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        return {"pkt": self.pkt_weight * pkt_loss(*self.all_gather(student.embedding, teacher.embedding))}
