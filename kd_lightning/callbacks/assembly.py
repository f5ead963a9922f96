"""The callbacks and plugins that the command line adds to those of a config."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import (
    Callback,
    Checkpoint,
    LearningRateFinder,
    ProgressBar,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from kd_lightning import distributed
from kd_lightning.callbacks.checkpoint_state import check_states
from kd_lightning.callbacks.further_checkpoints import check_further_checkpoints
from kd_lightning.callbacks.known_errors import known_error
from kd_lightning.callbacks.learning_rate import RunLearningRateFinder
from kd_lightning.callbacks.log_interval import LogInterval
from kd_lightning.callbacks.memory import OutOfMemory
from kd_lightning.callbacks.monitors import check_monitors
from kd_lightning.callbacks.non_finite import NonFiniteGuard
from kd_lightning.callbacks.preemption import PreemptionHandler
from kd_lightning.callbacks.progress import Progress
from kd_lightning.callbacks.protocol import Protocol
from kd_lightning.callbacks.run_status import RunStatus
from kd_lightning.callbacks.run_summary import RunSummary
from kd_lightning.callbacks.teacher_accuracy import TeacherAccuracy
from kd_lightning.callbacks.teacher_agreement import TeacherAgreement
from kd_lightning.callbacks.weight_averaging import RunStochasticWeightAveraging
from kd_lightning.config.checks import validates
from kd_lightning.data import ImageData
from kd_lightning.distillation import StudentModule
from kd_lightning.distillation.trial import try_step
from kd_lightning.distillation.unreached import freeze_unreached
from kd_lightning.evaluation import Classification, Cost, Evaluator, Faithfulness
from kd_lightning.runs.checkpoint_content import check_resumable
from kd_lightning.runs.checkpoint_io import AtomicCheckpointIO, forget, read_once
from kd_lightning.runs.inputs import check_inputs, describe

_FOR_RUNS = {
    LearningRateFinder: RunLearningRateFinder,
    StochasticWeightAveraging: RunStochasticWeightAveraging,
}
"""Classes that take the place of Lightning's, so that a run with them can be resumed."""


def callbacks_of(trainer: Any, method: LightningModule) -> list[Callback]:
    """Return a config's callbacks and the callbacks that every command adds.

    Two evaluators with the same title would log the same names. Only the later one is returned. An evaluator that
    `--trainer.callbacks+=` appends therefore replaces the evaluator of the config.

    Args:
        trainer: Arguments of the trainer.
        method: Method of the run.
    """
    configured = _as_list(trainer.callbacks)
    last = {callback.title: callback for callback in configured if isinstance(callback, Evaluator)}
    kept = [each for each in configured if not isinstance(each, Evaluator) or last[each.title] is each]
    kept = [_FOR_RUNS[type(each)](each) if type(each) in _FOR_RUNS else each for each in kept]
    has_bar = trainer.enable_progress_bar is False or any(isinstance(each, ProgressBar) for each in kept)
    progress = [] if has_bar else [Progress()]
    teacher = [TeacherAccuracy(), TeacherAgreement()] if hasattr(method, "teacher") else []
    return [*kept, LogInterval(), RunSummary(), OutOfMemory(), *teacher, *progress]


def loggers_of(trainer: Any, own: list[Logger]) -> list[Logger] | bool:
    """Return the loggers of a run: its own and those of the config. A W&B logger of the config replaces the run's own.

    Args:
        trainer: Arguments of the trainer.
        own: Loggers of the run. They are omitted if the argument `logger` is false.
    """
    if trainer.logger in (None, True, False):
        return own if trainer.logger is not False else False
    given = _as_list(trainer.logger)
    replaced = any(isinstance(logger, WandbLogger) for logger in given)
    return [*(logger for logger in own if not (replaced and isinstance(logger, WandbLogger))), *given]


def default_evaluators(method: LightningModule, data: ImageData, given: list[Callback]) -> list[Evaluator]:
    """Return the evaluators that are added to a run by default. Omit evaluators that the config already contains."""
    wanted: list[Evaluator] = [Cost(batch_sizes=[], teacher=True)]
    if data.labeled and method.trains_classifier:
        wanted.append(Classification())
    if hasattr(method, "teacher"):
        wanted.append(Faithfulness())
    named = {type(callback) for callback in given}
    return [evaluator for evaluator in wanted if type(evaluator) not in named]


def first_look(
    method: StudentModule, protocol: Protocol, guard: NonFiniteGuard, *, ckpt_path: str | None
) -> Callable[[ImageData], None]:
    """Return the check of a run that is called when its data are ready, before the run's folder is created.

    It checks networks, losses, the optimizer, monitored values, and the checkpoint with the inputs of its run.

    Args:
        method: method of the run.
        protocol: protocol of the run, which stores the description of the inputs in checkpoints.
        guard: its argument `try_step` enables the trial of the networks and losses.
        ckpt_path: path of the checkpoint from which the run begins or is resumed.
    """

    def check(data: ImageData) -> None:
        protocol.inputs = describe(method, data)
        method.on_data_ready(data)
        logged = try_step(method, data, nonfinite=guard.nonfinite) if guard.try_step else None
        if logged is None:
            freeze_unreached(method, data)
        if ckpt_path:  # the optimizer of the checkpoint does not contain the parameters that are frozen now
            path = Path(ckpt_path)
            content = read_once(path)
            check_states(method, content, path)
            check_resumable(method, content, path)
            check_inputs(content, protocol.inputs, path, allowed=protocol.allow_changed_inputs)
            forget()
        if logged is not None:
            check_monitors(method, data, logged)

    return check


def run_context(trainer: Any, folder: Path, *, resumes: bool) -> tuple[RunStatus, PreemptionHandler]:
    """Return two callbacks that `fit` also uses as context managers.

    RunStatus writes state.json and holds the run's lock. PreemptionHandler handles signals.
    """
    writes = rank_zero_only.rank == 0 and not trainer.fast_dev_run
    status = RunStatus(folder, resumes=resumes, writes=writes, explain=known_error)
    return status, PreemptionHandler(folder)


def checkpoints_of(
    protocol: Protocol, folder: Path, trainer: Any, method: LightningModule, data: ImageData
) -> list[Checkpoint]:
    """Return the callbacks that save checkpoints. `best.ckpt` is saved only if the run logs val/acc.

    Raises:
        ConfigError: if a callback of the config cannot save its own checkpoints.
    """
    check_further_checkpoints(_as_list(trainer.callbacks), folder)
    evaluated = data.has_validation and data.labeled and method.trains_classifier
    return protocol.checkpoints(folder, validated=evaluated and validates(trainer))


def plugins_of(trainer: Any) -> dict[str, Any]:
    """Return the trainer's arguments for plugins.

    One plugin writes checkpoints atomically, and reads them with `weights_only`, so that no pickle executes code.
    Another plugin replaces the argument `sync_batchnorm`. It converts timm's norm layers correctly.
    """
    plugins = _as_list(trainer.plugins)
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins = [*plugins, AtomicCheckpointIO()]
    if not trainer.sync_batchnorm:
        return {"plugins": plugins}
    return {"plugins": [*plugins, distributed.SyncBatchNorm()], "sync_batchnorm": False}


def _as_list(given: Any) -> list:
    """Return an argument of the trainer as a list. The argument may be a list, a single object or None."""
    return given if isinstance(given, list) else [given] * (given is not None)
