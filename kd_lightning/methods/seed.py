"""SEED: the teacher's similarities to a queue, without labels (Fang et al. 2021)."""

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import MLP

from kd_lightning import distributed
from kd_lightning.batch import Batch
from kd_lightning.distillation import EmbeddingDistiller
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.functional import full_precision, normalize
from kd_lightning.models import Features


@full_precision
def seed_loss(
    student: Tensor, teacher: Tensor, *, queue: Tensor, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """Cross-entropy of the student's similarities with the teacher's, both to the teacher's embeddings (Eq. 4).

    For each sample they are to its own embedding by the teacher, then to the queue's. It is not least where student is
    teacher, for the two temperatures differ.

    Args:
        student: N,D.
        teacher: N,D.
        queue: Q,D, of unit vectors.
        student_temperature: of the student's softmax.
        teacher_temperature: of the teacher's.
    """
    student, teacher = normalize(student), normalize(teacher)
    target = torch.softmax(_similarities(teacher, teacher, queue) / teacher_temperature, dim=1)
    log_probabilities = torch.log_softmax(_similarities(student, teacher, queue) / student_temperature, dim=1)
    return -(target * log_probabilities).sum(dim=1).mean()


def _similarities(vectors: Tensor, own: Tensor, queue: Tensor) -> Tensor:
    return torch.cat([(vectors * own).sum(dim=1, keepdim=True), vectors @ queue.T], dim=1)


class SEED(EmbeddingDistiller):
    """Similarities to a queue (Fang et al. 2021, "SEED: Self-supervised Distillation for Visual Representation").

    The queue, the same on every device, holds the teacher's embeddings of the last images, and first random unit
    vectors. The teacher's embedding is what its classifier reads (the paper's teachers have a projection to 128
    dimensions); the head on the student's, dropped afterwards, is Linear, ReLU, Linear, [inferred].

    Args:
        queue_size: length of the queue; the released code's. Where there are fewer images, an image meets its own
            earlier self in it. It is copied in every step and kept in checkpoints: 65,536 embeddings of 2,048 numbers
            are 0.5 GB.
        student_temperature: of the student's softmax.
        teacher_temperature: of the teacher's softmax, as in the released code: so low that an image's own embedding
            is all that counts, unless the queue holds one that is nearly the same. We recall 0.01 from the paper.
        seed_weight: weight of the cross-entropy of similarities.
        ce_weight: weight of the cross-entropy with the labels; the paper has none.
        **kwargs: teacher, kd_weight, student, optimizer and lr_scheduler, as for every distiller.
    """

    def __init__(
        self,
        *,
        queue_size: int = 65536,
        student_temperature: float = 0.2,
        teacher_temperature: float = 1e-4,
        seed_weight: float = 1.0,
        ce_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(ce_weight=ce_weight, **kwargs)
        check_positive(queue_size=queue_size)
        check_positive(student_temperature=student_temperature, teacher_temperature=teacher_temperature)
        self.temperatures = {"student_temperature": student_temperature, "teacher_temperature": teacher_temperature}
        self.set_weights(seed_weight=seed_weight)
        width = self.student.embedding_width
        self.head = MLP(width, [width, self.teacher.embedding_width])
        self.queue: Tensor
        self.place: Tensor
        self.register_buffer("queue", normalize(torch.randn(queue_size, self.teacher.embedding_width)))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self._ddp_params_and_buffers_to_ignore += ["queue", "place"]

    def check_data(self, data: Any) -> None:
        super().check_data(data)
        images = self.effective_batch_size(data)
        if images > len(self.queue):
            raise ConfigError(f"queue_size: {len(self.queue)} is less than the {images} images of a batch")

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.gather:
            distributed.from_first(self.queue)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        queue = self.queue.clone()  # the backward pass comes after the queue has changed
        loss = seed_loss(*self.aligned_pair(student, teacher), queue=queue, **self.temperatures)
        (embeddings,) = self.all_gather(teacher.embedding.float())
        self._enqueue(normalize(embeddings))
        return {"seed": self.seed_weight * loss}

    @torch.no_grad()
    def _enqueue(self, embeddings: Tensor) -> None:
        """The oldest embeddings make room; in place, so that the checkpoint has them.

        One that is not finite becomes zeros, alike to nothing: a step can be skipped, what the queue holds stays.
        """
        count = len(self.queue)
        rows = (self.place + torch.arange(len(embeddings), device=self.place.device)) % count
        self.queue[rows] = embeddings.nan_to_num(0, 0, 0).to(self.queue.dtype)
        self.place.copy_((self.place + len(embeddings)) % count)
