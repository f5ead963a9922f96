"""SEED: similarities to a queue of the teacher's embeddings, without labels (Fang et al. 2021)."""

from typing import Any

import torch
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import QueueDistiller
from kd_lightning.distillation.adapters import mlp
from kd_lightning.errors import check_temperature
from kd_lightning.functional import full_precision, normalize
from kd_lightning.models import Features


@full_precision
def seed_loss(
    student: Tensor, teacher: Tensor, *, queue: Tensor, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """Return the mean cross-entropy of the student's similarities, with the teacher's similarities as targets (Eq. 4).

    The embeddings of each network are compared by cosine with 1 + Q vectors. For each sample, these vectors are the
    teacher's embedding of the same sample and the Q embeddings of the queue. The similarities are divided by the
    temperature of the network and normalised by a softmax. The loss is not minimal at student = teacher, because the
    two temperatures differ.

    Args:
        student: Embeddings of the student, N,D.
        teacher: Embeddings of the teacher, N,D.
        queue: Unit vectors Q,D.
        student_temperature: Temperature of the student's softmax.
        teacher_temperature: Temperature of the teacher's softmax.
    """
    student, teacher = normalize(student), normalize(teacher)
    target = torch.softmax(_similarities(teacher, teacher, queue) / teacher_temperature, dim=1)
    log_probabilities = torch.log_softmax(_similarities(student, teacher, queue) / student_temperature, dim=1)
    return -(target * log_probabilities).sum(dim=1).mean()


def _similarities(vectors: Tensor, teacher: Tensor, queue: Tensor) -> Tensor:
    return torch.cat([(vectors * teacher).sum(dim=1, keepdim=True), vectors @ queue.T], dim=1)


class SEED(QueueDistiller):
    """Similarities to a queue (Fang et al. 2021, "SEED: Self-supervised Distillation for Visual Representation").

    A queue stores the teacher's embeddings of the most recent training images. The student learns the similarities
    between an image and the images of the queue, as the teacher sees them. The queue starts with random unit vectors.
    All devices have the same queue, unless `gather` is false.

    The teacher's embedding is the input of its classifier, whereas the paper's teachers have a projection to 128
    dimensions. A head maps the student's embedding to the width of the teacher's embedding. The head is dropped after
    training. Its layers (Linear, ReLU, Linear, with the first as wide as the student's embedding) are those of the
    authors' released code with its option `--student_mlp`.

    Args:
        queue_size: Number of embeddings in the queue. The default is that of the authors' released code. If the number
            of training images is smaller, the queue also contains an earlier embedding of the image itself. The queue
            is copied in every step and saved in checkpoints. 65,536 embeddings of 2,048 numbers take 0.5 GB.
        student_temperature: Temperature of the student's softmax.
        teacher_temperature: Temperature of the teacher's softmax. The default is that of the authors' released code.
            With this low temperature, only the teacher's embedding of the same image counts, unless the queue contains
            a nearly equal embedding. The value of the paper is 0.01 (from memory, not verified).
        seed_weight: Weight of the cross-entropy of the similarities.
        ce_weight: Weight of the cross-entropy with the labels. The paper has no such term.
        **kwargs: Arguments of every distiller, such as teacher, kd_weight, student, optimizer and lr_scheduler.
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
        check_temperature(1e-5, student_temperature=student_temperature, teacher_temperature=teacher_temperature)
        self.temperatures = {"student_temperature": student_temperature, "teacher_temperature": teacher_temperature}
        self.set_weights(seed_weight=seed_weight)
        width = self.student.embedding_width
        self.head = mlp(width, [width], self.teacher.embedding_width)
        self.add_queue(queue_size)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        queue = self.queue.clone()  # enqueue changes the queue before the backward pass
        loss = seed_loss(*self.aligned_pair(student, teacher), queue=queue, **self.temperatures)
        self.enqueue(teacher.embedding)
        return {"seed": self.seed_weight * loss}
