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
    """Return the mean of p log(p / q) over the N x N pairs of samples (Passalis & Tefas 2018).

    p (teacher) and q (student) are N,N probabilities. Row i contains (1 + cosine) / 2 for sample i and each of the N
    samples, including sample i itself. Each row is divided by its sum. The authors' released code also takes the mean
    over all pairs, and adds 1e-7 to p and q in the logarithms. The KL divergence, averaged over the rows, is N times
    the result.

    Args:
        student: Embeddings of the student, N,D.
        teacher: Embeddings of the teacher, N,E.
    """
    q, p = (_neighbor_probabilities(x) for x in (student, teacher))
    return (p * ((p + _EPSILON).log() - (q + _EPSILON).log())).mean()


def _neighbor_probabilities(vectors: Tensor) -> Tensor:
    vectors = normalize(vectors)
    similarities = (vectors @ vectors.T + 1) / 2
    return similarities / similarities.sum(dim=1, keepdim=True)


class PKT(Distiller):
    """Probabilities (Passalis & Tefas 2018, "Learning Deep Representations with Probabilistic Knowledge Transfer").

    The student learns the teacher's probabilities that two samples are neighbours. The probabilities are computed from
    the cosines between the embeddings of a batch.

    Args:
        pkt_weight: Weight of the divergence. The default is that of the authors' released code and of RepDistiller.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.
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
