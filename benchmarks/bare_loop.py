"""The same training step without Lightning: what `fit` is measured against."""

from collections.abc import Callable
from time import perf_counter

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import StudentModule


class Loop:
    """A training loop as one would write it by hand, over batches that lie on the device, augmented.

    Args:
        method: whose student is trained; its losses, optimizer and teacher are used, and nothing is logged.
        trainer: whose precision and gradient accumulation are used.
        batches: taken in turn.
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
        """The whole of the method's loss."""
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
    """The teacher's logits, the student's, cross-entropy of these with one class: a step without the method's loss."""

    def loss(self, batch: Batch) -> Tensor:
        loss = F.cross_entropy(self.method.student(batch.images).float(), torch.zeros_like(batch.labels))
        if (teacher := getattr(self.method, "teacher", None)) is None:
            return loss
        with torch.no_grad():
            seen = teacher(batch.images).float().mean()
        return loss + 0 * seen  # a compiler drops what nobody reads


def clock(device: torch.device) -> Callable[[], float]:
    """Seconds, read when everything that was asked of the device is done."""

    def on_gpu() -> float:
        torch.cuda.synchronize(device)
        return perf_counter()

    return on_gpu if device.type == "cuda" else perf_counter
