"""Protocol: which checkpoints are kept, and which of them is the run's result."""

import math
import shutil
import time
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from kd_lightning.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError
from kd_lightning.io.console import wide
from kd_lightning.io.safe_yaml import load_yaml
from kd_lightning.loggers import ResilientWandbLogger
from kd_lightning.models import checkpoints
from kd_lightning.runs import results


class Protocol(Callback):
    """Keeps `last.ckpt` and, by val/acc, `best.ckpt`, and names the one that is tested when `fit` ends.

    The test images are looked at once, by a checkpoint that was chosen without them; its student alone is written
    as `student.safetensors`, under timm's names.

    Args:
        select: `best` epoch by val/acc, or `last` epoch; default: best where there are validation images, else last
            (the literature's protocol: `data.val_split: 0`).
        test: whether `fit` ends with the test.
        every_n_steps: `last.ckpt` is written at each epoch's end, and also after every so many steps of the optimizer:
            what a run loses at most that is killed in a long epoch.

    Raises:
        ConfigError: for steps that are not positive.
    """

    def __init__(
        self, *, select: Literal["best", "last"] | None = None, test: bool = True, every_n_steps: int | None = None
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ConfigError(f"protocol.every_n_steps: {every_n_steps} is not positive; leave it out for none")
        self.select, self.test, self.every_n_steps = select, test, every_n_steps
        self._begun, self._seconds = time.monotonic(), 0.0
        self._last: dict[str, float] = {}

    def checkpoints(self, folder: Path, *, validated: bool) -> list[Checkpoint]:
        """What saves checkpoints into the run's folder.

        Raises:
            ConfigError: for `best` in a run that is not validated.
        """
        if self.select == "best" and not validated:
            raise ConfigError(
                "protocol.select: best is by val/acc, and there is none: data.val_split, trainer.limit_val_batches or "
                "trainer.check_val_every_n_epoch leaves no validation, or there are no labels; choose last"
            )
        self.select = self.select or ("best" if validated else "last")
        self.selected = folder / f"{self.select}.ckpt"
        # one callback cannot do both: ModelCheckpoint's save_last writes only when it has saved a best one
        last = LastCheckpoint(folder, self.every_n_steps)
        return [BestCheckpoint(folder), last] if validated else [last]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":  # processes that torchrun or SLURM started have named a folder each
            self.selected = trainer.strategy.broadcast(self.selected)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begun = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seconds += time.monotonic() - self._begun

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["last_values"] = _values(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._last = checkpoint.get("last_values", {})

    def state_dict(self) -> dict[str, float]:
        """The time that training has taken, that of the runs included which this one goes on with."""
        return {"seconds": self._seconds + time.monotonic() - self._begun}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self._seconds = state_dict["seconds"]

    def conclude(self, trainer: Trainer, method: LightningModule, data: ImageData) -> None:
        """Write the selected checkpoint's student alone after `fit`, test that checkpoint, and write results.json."""
        given = Path(trainer.ckpt_path or "")
        if trainer.is_global_zero and self.select == "last" and given.is_file() and not self.selected.exists():
            shutil.copy(given, self.selected)  # of a run that was ended in its test, and is tested now
        trainer.strategy.barrier()
        if not self.selected.exists():
            rank_zero_warn(
                f"{self.selected} was not written, so there is nothing to test (no epoch was run to its end)"
            )
            return
        if trainer.is_global_zero:
            state, facts = checkpoints.read(self.selected)
            student = checkpoints.clean(state, method.student.model)
            checkpoints.write(self.selected.with_name("student.safetensors"), student, facts)
        best = next((c for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint)), None)
        last = _values(trainer) or self._last  # of a run that was told to end in its last epoch
        outcome = ""
        if 0 <= trainer.max_steps <= trainer.global_step:
            _count_all(trainer)
        if self.test and data.labeled:
            trainer.test(method, datamodule=data, ckpt_path=str(self.selected), weights_only=True, verbose=False)
            found = trainer.callback_metrics
            sources = {"test/acc": "", "test/knn": " by their neighbours", "test/linear": " by a linear probe"}
            outcome = next(
                (f", {found[n]:.2%} of the test images right{by}" for n, by in sources.items() if n in found), ""
            )
        if trainer.is_global_zero:
            self._record(trainer, method, data, last, best)
        rank_zero_info(f"result: the {self.select} epoch{outcome}; {self.selected}, its student alone beside it")

    def _record(
        self,
        trainer: Trainer,
        method: LightningModule,
        data: ImageData,
        last: dict[str, float],
        best: "BestCheckpoint | None",
    ) -> None:
        found = results.collect(trainer, method, data, self.selected)
        at_best = self.select == "best" and best is not None and best.best_model_score is not None
        evaluated = {key: value for key, value in last.items() if key.startswith("val/")}
        if at_best:
            evaluated = {"val/acc": float(best.best_model_score)}
        found |= {"seconds": self._seconds, "last": last, "metrics": {**evaluated, **found["metrics"]}}
        each = results.samples(trainer)
        results.record(self.selected.parent, found, each)
        wide().print(results.table(found["metrics"]))
        for logger in trainer.loggers:
            if isinstance(logger, ResilientWandbLogger):
                results.log_tables(logger, found, each, data)

    def conclude_test(
        self, trainer: Trainer, method: LightningModule, data: ImageData, ckpt_path: str | None, config: dict[str, Any]
    ) -> None:
        """After `test`: prints what was found and, of a run's selected checkpoint, adds it to the run's results.json.

        `config` is the command's: what is evaluated must be the run's own networks, images and seed, by its own config.
        """
        if not trainer.is_global_zero:
            return
        wide().print(results.table({key: float(value) for key, value in trainer.callback_metrics.items()}))
        checkpoint = Path(ckpt_path or "none").absolute()
        beside = checkpoint.with_name("config.yaml")
        if not (ckpt_path and beside.exists()):
            return
        path = checkpoint.with_name(results.FILE)
        if reason := self._no_result(trainer, data, checkpoint, load_yaml(beside.read_text()), config):
            rank_zero_info(f"nothing is added to {path}: {reason}")
            return
        results.record(path.parent, results.collect(trainer, method, data, checkpoint), results.samples(trainer))
        rank_zero_info(f"added to {path}")

    def _no_result(
        self, trainer: Trainer, data: ImageData, checkpoint: Path, own: dict[str, Any], given: dict[str, Any]
    ) -> str:
        """Why what a test has found is not the result of the run that a checkpoint is of; '' if it is."""
        before = results.read(checkpoint.with_name(results.FILE))
        select = (own.get("protocol") or {}).get("select")
        by_default = "best.ckpt" if checkpoint.with_name("best.ckpt").exists() else "last.ckpt"
        evaluated = before["protocol"]["checkpoint"] if before else f"{select}.ckpt" if select else by_default
        if checkpoint.name != evaluated:
            return f"the run's selected checkpoint is {evaluated}"
        if not checkpoint.with_name("student.safetensors").exists():
            return "the run is not finished (fit --ckpt_path last with its run.id goes on with it)"
        if not results.tests_all(trainer):
            return "trainer.limit_test_batches leaves images out"
        if not data.labeled:
            return "the images have no labels, and no test split of their own"
        for key in EVALUATED_BY:
            if _at(own, key) != _at(given, key):
                return f"{key} is not the run's"
        return ""


def _count_all(trainer: Trainer) -> None:
    """Gives the test's row its place: of a run that goes on behind its last step, Lightning has yet to count that."""
    loop = trainer.fit_loop
    steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    loop.epoch_loop._batches_that_stepped = trainer.global_step
    loop.epoch_progress.current.completed = math.ceil(trainer.global_step / max(steps, 1))


def _values(trainer: Trainer) -> dict[str, float]:
    """What was logged last, by name."""
    return {key: float(value) for key, value in trainer.callback_metrics.items() if key != "val/loss"}


EVALUATED_BY = (
    "seed_everything",
    "trainer.max_epochs",
    "trainer.max_steps",
    "model.class_path",
    *(
        f"model.init_args.teacher.{name}"
        for name in ("name", "checkpoint", "pretrained", "size", "mean", "std", "dtype")
    ),
    "data.class_path",
    *(f"data.init_args.{name}" for name in ("path", "size", "crop_ratio", "test_split", "labels", "labeled")),
    *(f"data.init_args.{name}" for name in ("split_seed", "val_split", "max_train_samples")),
)
"""What a test must have in common with the run whose result it says."""


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return [*config] if isinstance(config, tuple) else config
