"""Which callbacks and plugins the command line adds to those of a config."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from kd_lightning import distributed
from kd_lightning.callbacks.known_errors import known_error
from kd_lightning.callbacks.memory import OutOfMemory
from kd_lightning.callbacks.preemption import PreemptionHandler
from kd_lightning.callbacks.progress import Progress
from kd_lightning.callbacks.protocol import Protocol
from kd_lightning.callbacks.run_status import RunStatus
from kd_lightning.callbacks.run_summary import RunSummary
from kd_lightning.callbacks.teacher_accuracy import TeacherAccuracy
from kd_lightning.callbacks.teacher_agreement import TeacherAgreement
from kd_lightning.config.checks import validates
from kd_lightning.data import ImageData
from kd_lightning.evaluation import Classification, Cost, Evaluator, Faithfulness
from kd_lightning.runs.checkpoint_io import AtomicCheckpointIO


def callbacks_of(trainer: Any, method: LightningModule) -> list[Callback]:
    """Return a config's callbacks and those of every command.

    Of two evaluators that would log the same names, the later one stays: `--trainer.callbacks+=` appends.

    Args:
        trainer: the arguments of the trainer.
        method: the run's method.
    """
    given = _as_list(trainer.callbacks)
    last = {callback.title: callback for callback in given if isinstance(callback, Evaluator)}
    kept = [each for each in given if not isinstance(each, Evaluator) or last[each.title] is each]
    progress = [Progress()] if trainer.enable_progress_bar is not False else []
    teacher = [TeacherAccuracy(), TeacherAgreement()] if hasattr(method, "teacher") else []
    return [*kept, RunSummary(), OutOfMemory(), *teacher, *progress]


def default_evaluators(method: LightningModule, data: ImageData, given: list[Callback]) -> list[Evaluator]:
    """Return the evaluators of every run, except those that the config names itself."""
    wanted: list[Evaluator] = [Cost(batch_sizes=[], teacher=True)]
    if data.labeled and method.trains_classifier:
        wanted.append(Classification())
    if hasattr(method, "teacher"):
        wanted.append(Faithfulness())
    named = {type(callback) for callback in given}
    return [evaluator for evaluator in wanted if type(evaluator) not in named]


def run_context(trainer: Any, folder: Path, *, resumes: bool) -> tuple[RunStatus, PreemptionHandler]:
    """Return the callbacks of `fit` that are contexts around it as well: state.json with its lock, and signals."""
    writes = rank_zero_only.rank == 0 and not trainer.fast_dev_run
    status = RunStatus(folder, resume_path=resumes, writes=writes, explain=known_error)
    return status, PreemptionHandler(folder)


def checkpoints_of(
    protocol: Protocol, folder: Path, trainer: Any, method: LightningModule, data: ImageData
) -> list[Checkpoint]:
    """Return the callbacks that save checkpoints; the best one only where there is a val/acc."""
    evaluated = data.has_validation and data.labeled and method.trains_classifier
    return protocol.checkpoints(folder, validated=evaluated and validates(trainer))


def plugins_of(trainer: Any) -> dict[str, Any]:
    """Return the trainer's arguments for plugins: checkpoints are written atomically and read without pickle.

    `sync_batchnorm` becomes the plugin that leaves the teacher out.
    """
    plugins = _as_list(trainer.plugins)
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins = [*plugins, AtomicCheckpointIO()]
    if not trainer.sync_batchnorm:
        return {"plugins": plugins}
    return {"plugins": [*plugins, distributed.SyncBatchNorm()], "sync_batchnorm": False}


def _as_list(given: Any) -> list:
    """Return what Lightning takes one of, or a list of, or None."""
    return given if isinstance(given, list) else [given] * (given is not None)
