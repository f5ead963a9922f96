"""EMA: an exponential moving average of the weights of the deployed network, which is evaluated in addition."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kd_lightning.batch import Batch
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.metrics import top1
from kd_lightning.models import checkpoints


class EMA(EMAWeightAveraging):
    """Averages the weights and BatchNorm statistics of the deployed network over the steps, and logs `val/acc_ema`.

    In most methods, the deployed network is the student. Some deploy the student with further modules.

    The average is in float32, or in float64 with the precision 64-true: bfloat16 would round most updates to nothing.
    Training does not use the average, and the result of the run is the network itself. The average is saved in the
    checkpoints and restored when the run is resumed. At the end, the average is written as `student_ema.safetensors`.
    If the method deploys the student alone, `test --model.student.checkpoint` can evaluate this file. Otherwise, the
    file is read by `predict --ckpt_path`, or by `Network` with the `name` and `model_kwargs` in its metadata.
    Lightning's own callback is different: it validates the average instead of the network, and makes the average the
    result.

    Args:
        decay: Weight of the old average in an update. With 0.999, the average covers about the last 1,000 updates.
        update_every_n_steps: Number of optimizer steps between two updates.
        update_starting_at_step: Number of the first step that is averaged. Default: the first step of the run.

    Raises:
        ConfigError: if decay is not between 0 and 1, or if `update_every_n_steps` is not positive.
    """

    def __init__(
        self, *, decay: float = 0.999, update_every_n_steps: int = 1, update_starting_at_step: int | None = None
    ) -> None:
        if not 0 < decay < 1:
            raise ConfigError(f"EMA.decay: {decay} is not between 0 and 1")
        if update_every_n_steps < 1:
            raise ConfigError(f"EMA.update_every_n_steps: {update_every_n_steps} is not positive")
        steps = {"update_every_n_steps": update_every_n_steps, "update_starting_at_step": update_starting_at_step}
        super().__init__(decay=decay, **steps)
        self.decay, self.accuracy = decay, None

    def setup(self, trainer: Trainer, pl_module: StudentModule, stage: str) -> None:
        if stage == "fit":
            self._average_model = AveragedModel(pl_module.deployed, multi_avg_fn=self._update, use_buffers=True)
            self._average_model.requires_grad_(False).eval()
            self._average_model.module.to(torch.float64 if trainer.precision == "64-true" else torch.float32)

    def _update(self, averages: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        current = [value.to(average.dtype) for average, value in zip(averages, current, strict=True)]
        get_ema_multi_avg_fn(self.decay)(averages, current, count)

    def on_fit_start(self, trainer: Trainer, pl_module: StudentModule) -> None:
        self._average_model.module.to(pl_module.device)  # the counter stays on the CPU, where each step reads it

    def on_train_batch_end(self, trainer: Trainer, pl_module: StudentModule, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module.deployed, *args)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing, because the average is updated after steps and not after epochs."""

    def on_train_end(self, trainer: Trainer, pl_module: StudentModule) -> None:
        folder = Path(trainer.default_root_dir)
        if trainer.is_global_zero and self._average_model.n_averaged and folder.is_dir():
            state = self._average_model.module.model.state_dict()
            checkpoints.write(folder / "student_ema.safetensors", state, pl_module.student_facts())

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: StudentModule) -> None:
        evaluated = self._average_model is not None and pl_module.trains_classifier and pl_module.has_labels
        self.accuracy = top1(pl_module.student.num_classes).to(pl_module.device) if evaluated else None

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: StudentModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.accuracy is not None:
            with trainer.precision_plugin.val_step_context():
                images = batch.images.to(next(self._average_model.module.parameters()).dtype)
                self.accuracy.update(self._average_model.module(images), batch.labels)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: StudentModule) -> None:
        if self.accuracy is not None:
            pl_module.log("val/acc_ema", self.accuracy.compute(), prog_bar=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: StudentModule, checkpoint: dict[str, Any]) -> None:
        if self._average_model is not None:
            state = self._average_model.state_dict()
            checkpoint["ema"] = {name: value.contiguous() for name, value in state.items()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: StudentModule, checkpoint: dict[str, Any]) -> None:
        if self._average_model is None:
            return
        if "ema" in checkpoint:
            self._average_model.load_state_dict(checkpoint["ema"])
        else:
            rank_zero_warn("EMA: the checkpoint contains no average of the student's weights; a new average is started")
