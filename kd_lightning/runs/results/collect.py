"""Collect the results of a run after its checkpoint has been evaluated."""

from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from kd_lightning.data import ImageData
from kd_lightning.evaluation import Evaluator
from kd_lightning.io.schema import SCHEMA
from kd_lightning.runs.results.code import code


def collect(trainer: Trainer, method: LightningModule, data: ImageData, checkpoint: Path) -> dict[str, Any]:
    """Return the content of results.json.

    It consists of the run's names, code version, data, protocol and metrics, and of the details of the evaluators.

    Args:
        trainer: trainer of the run. If the run has a test, the test has ended.
        method: method of the run.
        data: data of the run.
        checkpoint: path of the evaluated checkpoint, in the run's folder `<project>/<name>/<id>/`.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    project, name, identifier = _names(checkpoint.absolute().parent)
    teacher, student = getattr(method, "teacher", None), method.student
    names = [network.name for network in (teacher, student) if network]
    details: dict[str, Any] = {}
    for evaluator in evaluators(trainer):
        details |= evaluator.result.details
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    return {
        "schema": SCHEMA,
        "run": {
            "project": project,
            "name": name,
            "id": identifier,
            "group": f"{data.name}/{'-'.join(names)}",
            "method": type(method).__name__,
            "seed": data.seed,
            "teacher": teacher.name if teacher else None,
            "teacher_fingerprint": teacher.fingerprint()[:16] if teacher else None,
            "student": student.name,
        },
        "code": code(),
        "data": {
            "name": data.name_in_results,
            "classes": data.num_classes,
            "class_names": list(data.class_names),
            **{split: len(data.datasets.get(split, ())) for split in ("train", "val", "test")},
            "side": data.side,
        },
        "protocol": {
            "select": checkpoint.stem,
            "checkpoint": checkpoint.name,
            "epoch": state["epoch"],
            "step": state["global_step"],
            "max_epochs": trainer.max_epochs,
            "test_batches": None if tests_all(trainer) else trainer.limit_test_batches,
            "evaluated": datetime.now().astimezone().isoformat(timespec="seconds"),
        },
        "seconds": None,
        "metrics": {key: value for key, value in metrics.items() if key.startswith(("test/", "cost/"))},
        "details": details,
        "evaluators": {evaluator.title: evaluator.settings() for evaluator in evaluators(trainer)},
        "evaluator_seconds": {evaluator.title: round(evaluator.seconds, 3) for evaluator in evaluators(trainer)},
    }


def _names(folder: Path) -> tuple[str, str, str]:
    """Return a run's project, name and id, which are the last three parts of its folder's path."""
    last = folder.parts[-3:]
    if len(last) < 3 or last[0] == folder.anchor:
        return "", folder.parent.name, folder.name
    return last


def tests_all(trainer: Trainer) -> bool:
    """Return whether the test uses all images. In `limit_test_batches`, 1 is one batch and 1.0 is all batches."""
    limit = trainer.limit_test_batches
    return limit is None or (isinstance(limit, float) and limit == 1.0)


def samples(trainer: Trainer) -> dict[str, Tensor]:
    """Return the evaluators' results for the N test images: tensors by name, each with one row per image."""
    tensors: dict[str, Tensor] = {}
    for evaluator in evaluators(trainer):
        tensors |= evaluator.result.samples
    return tensors


def evaluators(trainer: Trainer) -> list[Evaluator]:
    """Return the evaluators among the trainer's callbacks."""
    return [callback for callback in trainer.callbacks if isinstance(callback, Evaluator)]
