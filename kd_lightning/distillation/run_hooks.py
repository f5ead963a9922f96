"""Hooks for random numbers, optimizer and checkpoint. `Combined` runs them once, and not again for each part."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from lightning.pytorch import LightningModule

from kd_lightning import optim
from kd_lightning.batch import Batch
from kd_lightning.distillation import checks
from kd_lightning.models import Network
from kd_lightning.randomness import reseed


def once_per_run(hook: Callable[..., None]) -> Callable[..., None]:
    """Decorate a hook so that it does nothing in a part of `Combined`, because the combination runs the hook itself."""

    @wraps(hook)
    def run(self: "RunHooks", *args: Any, **kwargs: Any) -> None:
        if not self.is_part:
            hook(self, *args, **kwargs)

    return run


class RunHooks(LightningModule):
    """The hooks of `StudentModule` that run for the method itself, and not again for each of its parts."""

    student: Network
    trained_by: str
    is_part: bool = False
    """Whether this method is a part of `Combined`."""

    @once_per_run
    def on_fit_start(self) -> None:
        self.train()  # a caller may have set the eval mode, which Lightning would keep

    @once_per_run
    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the random generators from the data's seed, the epoch, the index of the batch and the rank.

        Dropout, for example, uses these generators. A resumed run therefore draws the same numbers as an uninterrupted
        run.
        """
        seed = getattr(getattr(self.trainer, "datamodule", None), "seed", 0)
        reseed(seed, self.current_epoch, batch_idx, self.global_rank)

    @once_per_run
    def on_after_backward(self) -> None:
        if not (self.trainer.global_step or self.trainer.fit_loop.epoch_loop.batch_idx):
            checks.warn_about_idle_parameters(self)

    @property
    def global_batch(self) -> int:
        """Number of images per optimizer step, over all devices and accumulated batches."""
        data, trainer = self.trainer.datamodule, self.trainer
        return data.batch_size * data.world * trainer.accumulate_grad_batches

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimizer of all parameters that require a gradient, and the schedule of its learning rate."""
        return optim.configure(self)

    def student_facts(self) -> dict[str, Any]:
        """Return the metadata that is saved with the student's weights: `Network.facts` and the class names."""
        names = getattr(getattr(self.trainer, "datamodule", None), "class_names", [])
        return {**self.student.facts(), "class_names": list(names)}

    @once_per_run
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["network"] = self.student_facts()
        checkpoint["trained_by"] = self.trained_by

    @once_per_run
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checks.check_checkpoint(self, checkpoint)
