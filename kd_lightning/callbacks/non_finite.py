"""NonFiniteGuard: stop the run, or skip the step, at a loss that is not finite."""

import math
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from kd_lightning import distributed
from kd_lightning.batch import Batch
from kd_lightning.callbacks.preemption import PreemptionHandler
from kd_lightning.callbacks.protocol import LastCheckpoint
from kd_lightning.errors import RunError

_SHOWN = 16
_MOST_IN_A_ROW = 100


class Seen(NamedTuple):
    """Indices of the images and loss values of one batch. The GPU may not have computed the values yet."""

    indices: Tensor
    terms: list[str]
    values: Tensor


class NonFiniteGuard(Callback):
    """Stops the run, or skips the step, if a loss is NaN or infinite.

    If a loss is not finite, the optimizer changes no weights, and the running statistics of BatchNorm are restored to
    their values before the step. Weights that are not finite are never saved. This class does not handle gradients that
    overflow in 16-mixed: the gradient scaler skips these steps.

    The losses of a step are read after its backward pass has been queued on the GPU. The GPU therefore continues to
    work during the check. The ranks exchange one message per step, which contains two facts: whether a loss is not
    finite, and whether a rank has received a signal (`PreemptionHandler`).

    Args:
        nonfinite: Reaction to a loss that is NaN or infinite. `stop` saves last.ckpt, reports the loss term and the
            images, and ends the run before the optimizer step. `skip` skips the step, reports it, and counts it in
            `train/skipped`. With `skip`, the run ends after 100 skipped steps in succession. If an epoch has fewer than
            100 steps, the run ends after an epoch of skipped steps.
        try_step: Whether one training step and one evaluation with a few images are tried before the run's folder is
            created. If a network, a loss, the optimizer or its schedule fails, if a loss is not finite, or if a step
            needs more memory than the device has, the command ends with an error of one line. With `nonfinite: skip`, a
            loss that is not finite only gives a warning. The trial changes no weights, statistics, queues or random
            numbers.
    """

    def __init__(self, *, nonfinite: Literal["stop", "skip"] = "stop", try_step: bool = True) -> None:
        self.nonfinite, self.try_step = nonfinite, try_step
        self.skipped, self.in_a_row = 0, 0
        self.window: list[Seen] = []
        self.spoilt: Tensor | None = None
        self.flags: Tensor | None = None
        self.stop = PreemptionHandler()
        self.arrived: torch.cuda.Event | None = None
        self.fault: str | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop = next(
            (callback for callback in trainer.callbacks if isinstance(callback, PreemptionHandler)), self.stop
        )
        self.statistics = _statistics(pl_module)
        self.before = [buffer.clone() for buffer in self.statistics]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if not self.window and self.statistics:  # only before the first batch of a step
            torch._foreach_copy_(self.before, self.statistics)
        self.indices = batch.indices

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Queue the transfer of the losses to the CPU, before the backward pass."""
        terms = {**pl_module.loss_terms, "loss": loss.detach()}  # a method may add to the sum in its own training step
        values = torch.stack([value.float() for value in terms.values()])
        bad = values.isfinite().logical_not().any()
        self.spoilt = bad if self.spoilt is None else self.spoilt | bad
        if not trainer.fit_loop._should_accumulate():
            told = torch.full_like(bad, self.stop.told is not None)
            self.flags = distributed.any_rank(torch.stack([self.spoilt, told])).to("cpu", non_blocking=True)
        self.window.append(Seen(self.indices, [*terms], values.to("cpu", non_blocking=True)))
        if values.is_cuda:
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Remove the gradients if a loss of the step is not finite, so that the optimizer changes nothing."""
        if self.arrived is not None:
            self.arrived.synchronize()  # waits only for the forward pass
        window, (spoilt, self.stop.agreed) = self.window, self.flags.tolist()
        self.window, self.spoilt, self.arrived = [], None, None
        self.in_a_row = self.in_a_row + 1 if spoilt else 0
        if not spoilt:
            return
        self.skipped += 1
        optimizer.zero_grad(set_to_none=True)
        if self.statistics:
            torch._foreach_copy_(self.statistics, self.before)
        faults = distributed.everyones(_fault(window))
        self.fault = next(fault for fault in faults if fault)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.fault is None:
            return
        fault, self.fault = self.fault, None
        where = f"{fault}, in epoch {trainer.current_epoch + 1}, step {trainer.global_step}"
        if not _all_finite(pl_module):
            self._end(
                trainer,
                f"{where}; the weights are not finite either, because of an earlier gradient, and {_kept(trainer)}",
            )
        most = min(_MOST_IN_A_ROW, math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches))
        if self.nonfinite == "skip" and self.in_a_row < most:
            rank_zero_info(f"guard.nonfinite: the step is skipped, because {where}")
            return
        last = LastCheckpoint.of(trainer)
        if last:
            last.save(trainer)
        resume_hint = (
            f"--ckpt_path {last.path} resumes from the state before this step and continues after these images"
            if last
            else "no checkpoint is saved"
        )
        if self.nonfinite == "skip":
            self._end(trainer, f"{where}; the last {self.in_a_row} steps were all skipped; {resume_hint}")
        self._end(trainer, f"{where}; {resume_hint}", "guard.nonfinite skip")

    def _end(self, trainer: Trainer, reason: str, *more: str) -> None:
        """End the run on all ranks. Rank 0 reports the reason."""
        if not trainer.is_global_zero:
            raise SystemExit(1)
        hints = ["a lower model.optimizer.lr", *more]
        if not trainer.gradient_clip_val:
            hints.insert(1, "trainer.gradient_clip_val")
        if trainer.global_step == 1:
            hints.insert(0, "checking the labels, the teacher and the student's initial weights")
        if "16" in str(trainer.precision):
            hints.append("trainer.precision 32-true")
        raise RunError(f"{reason}. What may help: {'; '.join(hints)}")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not _all_finite(pl_module):
            after = f"in epoch {trainer.current_epoch + 1}, after step {trainer.global_step}"
            self._end(trainer, f"the student's weights are not finite {after} and are not saved; {_kept(trainer)}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.nonfinite == "skip":
            pl_module.log("train/skipped", float(self.skipped))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.skipped:
            were = "were" if self.skipped > 1 else "was"
            rank_zero_warn(
                f"guard.nonfinite: {self.skipped} of {trainer.global_step} steps {were} skipped, because a loss was "
                "not finite"
            )

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.skipped = state_dict["skipped"]


def _fault(window: list[Seen]) -> str:
    """Return a text with the terms and images of the first batch whose loss is not finite, or '' without one."""
    for batch in window:
        values = dict(zip(batch.terms, batch.values.tolist(), strict=True))
        bad = [f"train/{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            bad = bad[:-1] or bad  # the sum of the terms comes last and is named only if all terms are finite
            shown = ", ".join(map(str, batch.indices[:_SHOWN].tolist()))
            more = f", ... ({len(batch.indices)} in all)" if len(batch.indices) > _SHOWN else ""
            return f"{' and '.join(bad)} for the images with the indices {shown}{more}"
    return ""


def _statistics(method: LightningModule) -> list[Tensor]:
    """Return the running statistics of all BatchNorm layers, which exclude the teacher's."""
    norms = [module for module in method.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    return [b for norm in norms for b in (norm.running_mean, norm.running_var) if b is not None]


def _all_finite(method: LightningModule) -> bool:
    """Return whether all trained parameters and BatchNorm statistics are finite on all ranks.

    Other buffers are not checked, because a mask may contain infinities.
    """
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    each = [value.isfinite().all() for value in trained + _statistics(method)]
    return not distributed.any_rank(torch.stack(each).all().logical_not())


def _kept(trainer: Trainer) -> str:
    """Return a text that names the last checkpoint of the run. All its weights are finite, as in all checkpoints."""
    last = LastCheckpoint.of(trainer)
    if last and last.path.exists():
        return f"the last good checkpoint is {last.path}"
    return "this run has no good checkpoint yet"
