"""Protocol: the checkpoints that a run saves, and the checkpoint that is the result of the run."""

import math
import shutil
import time
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, WeightAveraging
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from kd_lightning import distributed
from kd_lightning.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError
from kd_lightning.io.console import wide
from kd_lightning.io.paths import read_text
from kd_lightning.io.safe_yaml import load_yaml
from kd_lightning.loggers import ResilientWandbLogger
from kd_lightning.models import checkpoints
from kd_lightning.runs import results


class Protocol(Callback):
    """Saves `last.ckpt` and `best.ckpt` (highest `val/acc`), and tests one of them at the end of `fit`.

    The test images are used once, to evaluate a checkpoint that was selected without them. The student of the selected
    checkpoint is also written as `student.safetensors`, with timm's parameter names.

    Args:
        select: Checkpoint that is the result of the run: `last`, or `best` (the epoch with the highest `val/acc`).
            Default: `best` if the run logs `val/acc`, otherwise `last`. `val/acc` needs validation images with labels.
            Most papers train on all training images and test the last epoch. `data.val_split: 0` does the same.
        test: Whether the selected checkpoint is tested at the end of `fit`.
        every_n_steps: Number of optimizer steps between two saves of `last.ckpt` within an epoch. If a run is killed,
            at most this number of steps is lost. Default: `last.ckpt` is saved only at the end of each epoch.
        allow_changed_inputs: Whether a run may be resumed, or a new run may begin from a checkpoint, if the teacher or
            the images have changed since the checkpoint was saved. A warning then names the changes. Default: this is
            an error, because the result would belong neither to the old nor to the new inputs.

    Raises:
        ConfigError: if `every_n_steps` is not positive.
    """

    def __init__(
        self,
        *,
        select: Literal["best", "last"] | None = None,
        test: bool = True,
        every_n_steps: int | None = None,
        allow_changed_inputs: bool = False,
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ConfigError(
                f"protocol.every_n_steps: {every_n_steps} is not positive; omit it to save only at the end of an epoch"
            )
        self.select, self.test, self.every_n_steps = select, test, every_n_steps
        self.allow_changed_inputs = allow_changed_inputs
        self.inputs: dict[str, Any] = {}
        """Description of the teacher and the images, which checkpoints contain (`kd_lightning.runs.inputs`)."""
        self._begun, self._seconds = time.monotonic(), 0.0
        self._last: dict[str, float] = {}

    def checkpoints(self, folder: Path, *, validated: bool) -> list[Checkpoint]:
        """Return the callbacks that save checkpoints into the run's folder.

        Raises:
            ConfigError: if `select` is `best`, but the run does not log val/acc.
        """
        if self.select == "best" and not validated:
            raise ConfigError(
                "protocol.select: best needs val/acc, which this run does not log: there is no validation "
                "(data.val_split, trainer.limit_val_batches, trainer.check_val_every_n_epoch), the images have no "
                "labels, or the method trains no classifier; choose last"
            )
        self.select = self.select or ("best" if validated else "last")
        self.selected = folder / f"{self.select}.ckpt"
        # two callbacks, because ModelCheckpoint's save_last writes only when a best checkpoint is saved
        last = LastCheckpoint(folder, self.every_n_steps)
        return [BestCheckpoint(folder), last] if validated else [last]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":  # each process that torchrun or SLURM started has chosen its own folder
            self.selected = trainer.strategy.broadcast(self.selected)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begun = time.monotonic()
        for schedule in trainer.lr_scheduler_configs:  # best.ckpt may lie between a validation and the end of its epoch
            if schedule.monitor in self._last:
                value = torch.tensor(self._last[schedule.monitor], dtype=torch.float64)
                trainer.callback_metrics.setdefault(schedule.monitor, value)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seconds += time.monotonic() - self._begun

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["last_values"] = _values(trainer)
        if self.inputs:
            checkpoint["inputs"] = self.inputs

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._last = checkpoint.get("last_values", {})

    def state_dict(self) -> dict[str, float]:
        """Return the seconds of training, including the time before the run was resumed."""
        return {"seconds": self._seconds + time.monotonic() - self._begun}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self._seconds = state_dict["seconds"]

    def conclude(self, trainer: Trainer, method: LightningModule, data: ImageData) -> None:
        """Write the selected student, test the selected checkpoint, and write results.json at the end of `fit`."""
        resumed_from = Path(trainer.ckpt_path or "")
        if trainer.is_global_zero and self.select == "last" and resumed_from.is_file() and not self.selected.exists():
            shutil.copy(resumed_from, self.selected)  # the earlier session ended during its test
        trainer.strategy.barrier()
        if not self.selected.exists():
            rank_zero_warn(f"{self.selected} was not written, because no epoch was completed; nothing is tested")
            return
        if trainer.is_global_zero:
            state, facts = checkpoints.read(self.selected)
            checkpoints.write(self.selected.with_name("student.safetensors"), method.deployed_state(state), facts)
        best = next((c for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint)), None)
        last = _mean(_values(trainer)) or self._last  # from the checkpoint if this session trained no step
        for callback in trainer.callbacks:
            if isinstance(callback, WeightAveraging):  # otherwise the test would load the student without averaging
                callback._average_model = None
        outcome = ""
        if 0 <= trainer.max_steps <= trainer.global_step:
            _count_all(trainer)
        if self.test and data.labeled:
            trainer.test(method, datamodule=data, ckpt_path=str(self.selected), weights_only=True, verbose=False)
            metrics = trainer.callback_metrics
            sources = {"test/acc": "", "test/knn": " with kNN", "test/linear": " with a linear probe"}
            outcome = next((f", {metrics[n]:.2%} test accuracy{by}" for n, by in sources.items() if n in metrics), "")
        if trainer.is_global_zero:
            self._record(trainer, method, data, last, best)
        rank_zero_info(
            f"the result is the {self.select} epoch{outcome}; it is saved in {self.selected} and, without training "
            "state, in student.safetensors"
        )

    def _record(
        self,
        trainer: Trainer,
        method: LightningModule,
        data: ImageData,
        last: dict[str, float],
        best: "BestCheckpoint | None",
    ) -> None:
        content = results.collect(trainer, method, data, self.selected)
        at_best = self.select == "best" and best is not None and best.best_model_score is not None
        validation = {key: value for key, value in last.items() if key.startswith("val/")}
        if at_best:
            values = torch.load(self.selected, map_location="cpu", weights_only=True, mmap=True).get("last_values", {})
            validation = {key: value for key, value in values.items() if key.startswith("val/")}
            validation["val/acc"] = float(best.best_model_score)
        content |= {"seconds": self._seconds, "last": last, "metrics": {**validation, **content["metrics"]}}
        samples = results.samples(trainer)
        results.record(self.selected.parent, content, samples)
        at_last = {
            f"last/{key}": last[key] for key in validation if at_best and last.get(key) not in (None, validation[key])
        }
        epoch = f"{content['protocol']['epoch'] + 1} of {trainer.max_epochs}"
        title = f"result of the {self.select} epoch ({epoch})" if trainer.max_epochs != -1 else "result"
        wide().print(results.table({**content["metrics"], **at_last}, title))
        for logger in trainer.loggers:
            if isinstance(logger, ResilientWandbLogger):
                results.log_tables(logger, content, samples, data)

    def conclude_test(
        self, trainer: Trainer, method: LightningModule, data: ImageData, ckpt_path: str | None, config: dict[str, Any]
    ) -> None:
        """Print the metrics after `test`, and add them to results.json if they are a result of the checkpoint's run.

        The metrics are added only under these conditions:

        - The checkpoint is the selected checkpoint of its run, and this run has finished.
        - The test evaluates all test images, and they have labels.
        - The settings `EVALUATED_BY` have the same values in the config of the command and in the config of the run.

        Args:
            trainer: Trainer of the test.
            method: Method that was tested.
            data: Data of the test.
            ckpt_path: Path of the tested checkpoint, or None if no checkpoint is given.
            config: Config of the command.
        """
        if not trainer.is_global_zero:
            return
        wide().print(results.table({key: float(value) for key, value in trainer.callback_metrics.items()}))
        checkpoint = Path(ckpt_path or "none").absolute()
        run_config = checkpoint.with_name("config.yaml")
        if not (ckpt_path and run_config.exists()):
            return
        path = checkpoint.with_name(results.FILE)
        if reason := self._no_result(trainer, data, checkpoint, load_yaml(read_text(run_config)), config):
            rank_zero_info(f"nothing is added to {path}, because {reason}")
            return
        results.record(path.parent, results.collect(trainer, method, data, checkpoint), results.samples(trainer))
        rank_zero_info(f"the results are added to {path}")

    def _no_result(
        self, trainer: Trainer, data: ImageData, checkpoint: Path, run_config: dict[str, Any], config: dict[str, Any]
    ) -> str:
        """Return why the results of a test are not results of the checkpoint's run. Return '' if they are."""
        earlier = results.read(checkpoint.with_name(results.FILE))
        select = (run_config.get("protocol") or {}).get("select")
        by_default = "best.ckpt" if checkpoint.with_name("best.ckpt").exists() else "last.ckpt"
        selected = earlier["protocol"]["checkpoint"] if earlier else f"{select}.ckpt" if select else by_default
        if checkpoint.name != selected:
            return f"{checkpoint.name} is tested, but the selected checkpoint of the run is {selected}"
        if not checkpoint.with_name("student.safetensors").exists():
            return "the run is not finished (fit --ckpt_path last with its run.id resumes it)"
        if not results.tests_all(trainer):
            return f"trainer.limit_test_batches {trainer.limit_test_batches} excludes images"
        if not data.labeled:
            return "the images have no labels, and the result of a run without labels contains no test"
        for key in EVALUATED_BY:
            before, now = _at(run_config, key), _at(config, key)
            if before != now:
                return f"{key} is {now} in this test, but {before} in the run"
        return ""


def _count_all(trainer: Trainer) -> None:
    """Set Lightning's counters to the last step, so that the test is logged at this step.

    Lightning does not set the counters if a complete run is resumed.
    """
    loop = trainer.fit_loop
    steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    loop.epoch_loop._batches_that_stepped = trainer.global_step
    loop.epoch_progress.current.completed = math.ceil(trainer.global_step / max(steps, 1))


def _values(trainer: Trainer) -> dict[str, float]:
    """Return the last logged values by name."""
    return {key: float(value) for key, value in trainer.callback_metrics.items() if key != "val/loss"}


def _mean(values: dict[str, float]) -> dict[str, float]:
    """Return the mean of each value over the processes, because `train/*` is logged for the images of each process."""
    everyones = distributed.everyones(values)
    return {name: sum(each.get(name, value) for each in everyones) / len(everyones) for name, value in values.items()}


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
"""Settings that must be equal in a run and in a later test that adds its metrics to the results.json of the run."""


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return [*config] if isinstance(config, tuple) else config
