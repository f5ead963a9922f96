"""Protocol: which checkpoints are kept, and which of them is the run's result."""

from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from kd_lightning.errors import ConfigError
from kd_lightning.models import checkpoints


class Protocol(ModelCheckpoint):
    """Keeps `best.ckpt` (by val/acc) and `last.ckpt`, and names the one that is tested when `fit` ends.

    The test images are looked at once, by a checkpoint that was chosen without them; its student alone is then
    written as `student.safetensors`, under timm's names.

    Args:
        judge: `best` epoch by val/acc, or `last` epoch; default: best where there is a validation split, else last
            (the literature's protocol: `data.val_split: 0`).
        test: whether `fit` ends with the test.

    Raises:
        ConfigError: for `best` without a validation split.
    """

    CHECKPOINT_NAME_LAST = "last"

    def __init__(self, *, judge: Literal["best", "last"] | None = None, test: bool = True) -> None:
        super().__init__(filename="best", monitor="val/acc", mode="max", save_last=True, enable_version_counter=False)
        self.judge, self.test = judge, test

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            validated = not isinstance(trainer.datamodule.val_dataloader(), list)
            if self.judge == "best" and not validated:
                raise ConfigError("protocol.judge: best needs validation images, and data.val_split is 0; choose last")
            self.judge = self.judge or ("best" if validated else "last")
            if not validated:
                self.monitor, self.filename, self.save_last = None, "last", False
            self.dirpath = str(trainer.default_root_dir)
        super().setup(trainer, pl_module, stage)

    @property
    def judged(self) -> Path:
        """The checkpoint that this protocol tests."""
        return Path(self.dirpath) / f"{self.judge}.ckpt"

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or not self.dirpath or not self.judged.exists():
            return
        state, facts = checkpoints.read(self.judged)
        student = checkpoints.clean(state, pl_module.student.model)
        checkpoints.write(self.judged.with_name("student.safetensors"), student, facts)
        rank_zero_info(f"result: the {self.judge} epoch, {self.judged}; its student: student.safetensors beside it")
