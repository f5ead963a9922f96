"""The bare loop: the same training step without Lightning, with which `fit` is compared."""

from collections.abc import Callable
from time import perf_counter

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import StudentModule


class Loop:
    """A training loop as it is written by hand, over augmented batches that are already on the device.

    Args:
        method: method whose losses, optimizer, student and teacher are used; nothing is logged.
        trainer: trainer whose precision and gradient accumulation are used.
        batches: batches that the loop uses in turn.
    """

    def __init__(self, method: StudentModule, trainer: Trainer, batches: list[Batch]) -> None:
        method.train()
        method.recording = False
        self.method, self.batches = method, batches
        self.context = trainer.precision_plugin.train_step_context
        self.optimizer = method.optimizer([value for value in method.parameters() if value.requires_grad])
        self.scaler = torch.amp.GradScaler(enabled=getattr(trainer.precision_plugin, "scaler", None) is not None)
        self.accumulated, self.done = trainer.accumulate_grad_batches, 0

    def loss(self, batch: Batch) -> Tensor:
        """Return the total loss of the method."""
        return torch.stack([*self.method.training_terms(batch).values()]).sum()

    def run(self, steps: int) -> None:
        for _ in range(steps):
            with self.context():
                loss = self.loss(self.batches[self.done % len(self.batches)])
            self.scaler.scale(loss / self.accumulated).backward()
            self.done += 1
            if self.done % self.accumulated == 0:
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad()


class NetworksAlone(Loop):
    """A loop without the method's loss.

    A step computes the logits of teacher and student, and the cross-entropy of the student's logits with one class.
    """

    def loss(self, batch: Batch) -> Tensor:
        loss = F.cross_entropy(self.method.student(batch.images).float(), torch.zeros_like(batch.labels))
        if (teacher := getattr(self.method, "teacher", None)) is None:
            return loss
        with torch.no_grad():
            teacher_mean = teacher(batch.images).float().mean()
        return loss + 0 * teacher_mean  # a compiler would remove an unused forward pass


def clock(device: torch.device) -> Callable[[], float]:
    """Return a function that returns the time in seconds after all work on the device has finished."""

    def on_gpu() -> float:
        torch.cuda.synchronize(device)
        return perf_counter()

    return on_gpu if device.type == "cuda" else perf_counter
