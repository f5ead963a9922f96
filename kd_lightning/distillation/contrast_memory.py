"""ContrastMemory: vectors of all training images, from student and teacher, as positives and negatives (CRD)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kd_lightning.functional import full_precision, normalize
from kd_lightning.randomness import integers, named_key

Gather = Callable[..., tuple[Tensor, ...]]
_NOISE = 1e-7  # constant of the released code, which keeps its denominators above 0


class ContrastMemory(nn.Module):
    """Two banks with a vector of each of n training images: one of the student, one of the teacher.

    A row of a bank is the running mean of the vectors of an image, scaled to length 1. Until the image occurs for the
    first time, the row is random, and its length is about 1. The first batch sets the two normalisers, which stay
    constant afterwards.

    Args:
        classes: Class of each of the n images, n int64. The negatives of an image have other classes. If each image has
            its own class, all other images are negatives.
        width: Number of elements D of a vector.
        temperature: Temperature of the similarities.
        momentum: Share of the previous row in a new row.
        seed: Seed of the random rows. They are the same on all devices.
    """

    student_bank: Tensor
    teacher_bank: Tensor
    log_normalizers: Tensor
    classes: Tensor
    order: Tensor
    counts: Tensor

    def __init__(self, classes: Tensor, width: int, *, temperature: float, momentum: float, seed: int = 0) -> None:
        super().__init__()
        self.temperature, self.momentum = temperature, momentum
        generator, bound = torch.Generator().manual_seed(seed), math.sqrt(3 / width)
        for name in ("student_bank", "teacher_bank"):
            bank = torch.empty(len(classes), width).uniform_(-bound, bound, generator=generator)
            self.register_buffer(name, bank)
        self.register_buffer("log_normalizers", torch.zeros(2))
        self.register_buffer("classes", classes, persistent=False)
        self.register_buffer("order", classes.argsort(stable=True), persistent=False)
        self.register_buffer("counts", classes.bincount(), persistent=False)

    def negatives(self, keys: Tensor, rows: Tensor, count: int) -> Tensor:
        """Return `count` rows of other classes for each of N images, N,`count` int64, drawn with replacement.

        Args:
            keys: Keys of the images, N int64 (`Batch.keys`).
            rows: Rows of the images, N int64.
            count: Number of negatives per image.
        """
        classes = self.classes[rows, None]
        own = self.counts[classes]
        start = self.counts.cumsum(0)[classes] - own
        draws = torch.arange(count, device=keys.device)
        places = integers(named_key(keys, "negatives")[:, None], len(self.order) - own, draws)
        return self.order[places + own * (places >= start)]  # `order` has the images of a class in succession

    @full_precision
    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        rows: Tensor,
        negatives: Tensor,
        *,
        gather: Gather = lambda *tensors: tensors,
    ) -> Tensor:
        """Return the loss of CRD, averaged over N images, and then update the banks (Tian et al. 2020, Eq. 17 and 18).

        A vector of the student is compared with rows of the teacher's bank, and a vector of the teacher with rows of
        the student's bank. P is exp(cosine / temperature) / Z. The probability that a row is the positive is
        P / (P + K / n). The loss is the binary cross-entropy over one positive and K negatives, summed over both
        directions. The normaliser Z is n times the mean of exp(cosine / temperature) in the first batch.

        Args:
            student: Mapped embeddings of the student, N,D.
            teacher: Mapped embeddings of the teacher, N,D.
            rows: Rows of the images, N int64.
            negatives: Rows of the negatives, N,K int64.
            gather: Function that returns the rows of all devices. Banks and normalisers are then equal on all devices.
        """
        student, teacher = normalize(student), normalize(teacher)
        columns = torch.cat([rows[:, None], negatives], dim=1)
        banks = (self.teacher_bank, self.student_bank)  # copies are compared, because the banks change before backward
        scores = torch.stack(
            [
                (vectors @ bank.to(vectors.dtype, copy=True).T).gather(1, columns) / self.temperature
                for vectors, bank in zip((student, teacher), banks, strict=True)
            ]
        )
        self._set_normalizers(scores.detach(), gather)
        log_p = scores - self.log_normalizers.to(scores.dtype)[:, None, None]
        share = negatives.shape[1] / len(self.order)
        log_sum = torch.logaddexp(log_p, log_p.new_tensor(math.log(share + _NOISE)))
        positives = (log_p - log_sum)[:, :, 0].sum()
        loss = -(positives + (math.log(share) - log_sum)[:, :, 1:].sum()) / len(rows)
        self._update(*gather(student.detach(), teacher.detach(), rows))
        return loss

    @torch.no_grad()
    def _set_normalizers(self, scores: Tensor, gather: Gather) -> None:
        (sums,) = gather(scores.flatten(1).logsumexp(dim=1)[None])
        count = len(sums) * scores[0].numel()
        first = sums.logsumexp(dim=0) + math.log(len(self.order) / count)
        unset = (self.log_normalizers == 0) & first.isfinite()
        self.log_normalizers.copy_(torch.where(unset, first, self.log_normalizers))

    @torch.no_grad()
    def _update(self, student: Tensor, teacher: Tensor, rows: Tensor) -> None:
        """Replace the rows of the images. A vector that is not finite changes nothing, since it would remain."""
        for bank, vectors in ((self.student_bank, student), (self.teacher_bank, teacher)):
            before = bank[rows].to(vectors.dtype)
            mean = normalize(self.momentum * before + (1 - self.momentum) * vectors)
            bank[rows] = torch.where(mean.isfinite(), mean, before).to(bank.dtype)
