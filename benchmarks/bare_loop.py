"""The bare loop, with which `fit` is compared: a loop of the same training step without Lightning."""

from collections.abc import Callable
from time import perf_counter

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import StudentModule
from kd_lightning.distillation.passes import Seen


class Loop:
    """A training loop without Lightning, on batches that are already augmented and on the device.

    Args:
        method: method with the losses, the optimizer, the student and the teacher. Nothing is logged.
        trainer: trainer with the precision and the number of accumulated batches.
        batches: batches that the loop uses in this order, again and again.
        stored: features of the teacher for each batch, if the run reads them from a teacher store. The loop then does
            not run the teacher.
    """

    def __init__(
        self,
        method: StudentModule,
        trainer: Trainer,
        batches: list[Batch],
        stored: list[tuple[Seen, ...]] | None = None,
    ) -> None:
        method.train()
        method.recording = False
        given = [()] * len(batches) if stored is None else stored
        self.method = method
        self.batches = [(batch._replace(places=None), *seen) for batch, seen in zip(batches, given, strict=True)]
        self.context = trainer.precision_plugin.train_step_context
        self.optimizer = method.optimizer([value for value in method.parameters() if value.requires_grad])
        self.scaler = torch.amp.GradScaler(enabled=getattr(trainer.precision_plugin, "scaler", None) is not None)
        self.accumulated, self.done = trainer.accumulate_grad_batches, 0

    def loss(self, batch: Batch, *stored: Seen) -> Tensor:
        """Return the total loss of the method."""
        with self.method.only_trained():
            return torch.stack([*self.method.weighted_terms(batch, *stored).values()]).sum()

    def run(self, steps: int) -> None:
        for _ in range(steps):
            with self.context():
                loss = self.loss(*self.batches[self.done % len(self.batches)])
            self.scaler.scale(loss / self.accumulated).backward()
            self.done += 1
            if self.done % self.accumulated == 0:
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad()


class NetworksAlone(Loop):
    """A loop with both networks, but without the loss of the method.

    A step computes the logits of teacher and student. The loss is the cross-entropy between the student's logits and a
    constant class.
    """

    def loss(self, batch: Batch, *stored: Seen) -> Tensor:
        loss = F.cross_entropy(self.method.student(batch.images).float(), torch.zeros_like(batch.labels))
        if stored or (teacher := getattr(self.method, "teacher", None)) is None:
            return loss
        with torch.no_grad():
            teacher_mean = teacher(batch.images).float().mean()
        return loss + 0 * teacher_mean  # without this term, a compiler would remove the teacher's forward pass


def clock(device: torch.device) -> Callable[[], float]:
    """Return a clock: a function that waits for all work on the device, and then returns the time in seconds."""

    def on_gpu() -> float:
        torch.cuda.synchronize(device)
        return perf_counter()

    return on_gpu if device.type == "cuda" else perf_counter
