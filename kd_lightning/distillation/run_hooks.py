"""Hooks for random numbers, optimizer and checkpoint. `Combined` runs them once, and not again for each part."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

from kd_lightning import optim
from kd_lightning.batch import Batch
from kd_lightning.distillation import checks
from kd_lightning.distillation.fine_tuning import FineTuning
from kd_lightning.distillation.student_facts import student_facts
from kd_lightning.distillation.unreached import freeze_unreached, without_gradient
from kd_lightning.randomness import reseed


def once_per_run(hook: Callable[..., None]) -> Callable[..., None]:
    """Decorate a hook so that it does nothing in a part of `Combined`, because the combination runs the hook itself."""

    @wraps(hook)
    def run(self: "RunHooks", *args: Any, **kwargs: Any) -> None:
        if not self.is_part:
            hook(self, *args, **kwargs)

    return run


class RunHooks(FineTuning):
    """The hooks of `StudentModule` that run for the method itself, and not again for each of its parts."""

    trained_by: str
    trains_classifier: bool
    on_data_ready: Callable[[Any], None]
    unreached_are_frozen: bool = False
    """Whether a dry step has already frozen the parameters that no loss reaches in the run that begins."""
    is_part: bool = False
    """Whether this method is a part of `Combined`."""

    @once_per_run
    def setup(self, stage: str) -> None:
        """Freeze parameters that no loss reaches, before the optimizer and DistributedDataParallel read them."""
        if stage != "fit":
            return
        if hasattr(self.trainer.datamodule, "some_training_images"):
            self.on_data_ready(self.trainer.datamodule)
            if not self.unreached_are_frozen:
                freeze_unreached(self, self.trainer.datamodule)
        self.unreached_are_frozen = False  # a further `fit` may have other losses or data

    @once_per_run
    def on_fit_start(self) -> None:
        self.train()  # a caller may have set the eval mode, which Lightning would keep
        self._fingerprints = self.fingerprints()

    @once_per_run
    def on_fit_end(self) -> None:
        self.check_unchanged(self._fingerprints)

    @once_per_run
    def on_train_start(self) -> None:
        self.start_epoch()

    @once_per_run
    def on_train_epoch_start(self) -> None:
        self.start_epoch()

    @once_per_run
    def on_train_epoch_end(self) -> None:
        """Update a schedule that reads a logged value (ReduceLROnPlateau) before the checkpoints are saved.

        Lightning updates it after the checkpoints, and not at all in the first epoch of a resumed run. A resumed run
        would therefore lack one update.
        """
        optim.update_plateau(self.trainer)

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
            checks.warn_about_idle_parameters(self, without_gradient(self))

    @once_per_run
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.drop_gradients()

    def share_of_step(self, batch_idx: int) -> float:
        """Return the factor of the loss of a batch so that the gradients of a step are the mean over its batches.

        Lightning divides every loss by the number of batches that a step accumulates. At the end of an epoch, fewer
        batches may be left.
        """
        trainer = self.trainer
        count, batches = trainer.accumulate_grad_batches, trainer.num_training_batches
        if count == 1 or math.isinf(batches) or trainer.strategy.handles_gradient_accumulation:
            return 1.0
        left = batches % count
        return count / left if left and batch_idx >= batches - left else 1.0

    @property
    def global_batch(self) -> int:
        """Number of images per optimizer step, over all devices and accumulated batches."""
        data, trainer = self.trainer.datamodule, self.trainer
        return data.batch_size * data.world * trainer.accumulate_grad_batches

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimizer of all parameters that require a gradient, and the schedule of its learning rate."""
        return optim.configure(self)

    def student_facts(self) -> dict[str, Any]:
        """Return the metadata that is saved with the student's weights."""
        data = getattr(self.trainer, "datamodule", None)
        return student_facts(self.deployed, data, classifier_trained=self.trains_classifier)

    @once_per_run
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["network"] = self.student_facts()
        checkpoint["trained_by"] = self.trained_by

    @once_per_run
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checks.check_checkpoint(self, checkpoint)
