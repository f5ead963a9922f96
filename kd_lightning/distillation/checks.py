"""Checks of a method: its weights, layers and networks, and the checkpoint that it loads."""

import inspect
import math
from abc import ABCMeta
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn

from kd_lightning.errors import ConfigError
from kd_lightning.models import Network, checkpoints

_CASTS = {"16-true": torch.float16, "bf16-true": torch.bfloat16, "64-true": torch.float64}


class CheckedWhenBuilt(ABCMeta):
    """Metaclass that calls `on_built` once the outermost `__init__` of an object has returned.

    A base class can so check, and act on, what its subclasses declare from their own arguments. An object's `given` is
    the set of the names of the arguments that it was built with, without those that a class fixes for its base.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        built = super().__call__(*args, **kwargs)
        built.given = {*kwargs}
        built.on_built()
        return built

    @property
    def __signature__(cls) -> inspect.Signature:
        signature = inspect.signature(cls.__init__)
        return signature.replace(parameters=[*signature.parameters.values()][1:])


def check_weight(field: str, value: float) -> None:
    """Raise an error for the weight of a loss term that is negative or not finite.

    Raises:
        ConfigError: naming the field.
    """
    if not 0 <= value < math.inf:
        raise ConfigError(f"{field}: {value} is not a weight; give a finite number, 0 or more")


def check_layer(field: str, number: int, *networks: Network) -> None:
    """Raise an error for a stage, counted from the last, which is 1, that one of the networks does not have.

    Raises:
        ConfigError: naming `field`, and the stages that the network has.
    """
    for network in networks:
        stages = len(network.model.feature_info)
        if not 1 <= number <= stages:
            raise ConfigError(f"{field}: {number}; {network.name} has 1 to {stages}")


def check_teacher(method: str, student: Network, teacher: Network, *, logits: bool) -> None:
    """Raise an error for a teacher without weights, or one whose logits are read and are not of the student's classes.

    Args:
        method: name of the method's class.
        student: the student.
        teacher: the teacher.
        logits: whether the method reads the teacher's logits.

    Raises:
        ConfigError: naming the field.
    """
    if not teacher.has_weights:
        raise ConfigError(
            f"teacher: {teacher.name} has no weights; give teacher.checkpoint a path, or teacher.pretrained: true"
        )
    if not logits:
        return
    if student.num_classes == 0:
        raise ConfigError(
            f"data.num_classes: {method} reads logits, and the data have no classes; give the teacher's number, "
            f"{teacher.num_classes}"
        )
    if teacher.num_classes != student.num_classes:
        raise ConfigError(
            f"teacher.num_classes: teacher {teacher.name} knows {teacher.num_classes} classes, student and data "
            f"have {student.num_classes}; {method} reads logits: train the teacher on these data first"
        )
    if teacher.fresh_classifier:
        raise ConfigError(
            f"teacher.num_classes: the weights of {teacher.name} were not trained for {teacher.num_classes}, so its "
            f"classifier is random, and {method} reads logits; leave num_classes out"
        )


def check_checkpoint(method: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Raise an error for a checkpoint of another optimizer, or one whose tensors are not those of the method.

    Raises:
        ConfigError: naming the field and the first tensors that differ.
    """
    before = checkpoint.get("trained_by", method.trained_by)
    if method._trainer is not None and method._trainer.state.fn == "fit" and before != method.trained_by:
        raise ConfigError(
            f"model.optimizer: the checkpoint was written with {before}, and {method.trained_by} cannot resume from "
            f"its state; choose {before}, or start from the student alone (model.student.checkpoint)"
        )
    differs = checkpoints.mismatch(method.state_dict(), checkpoint["state_dict"])
    if differs:
        written_by = checkpoint.get("network", {}).get("name", "another network")
        raise ConfigError(
            f"ckpt_path: the checkpoint does not fit {type(method).__name__} with student {method.student.name} "
            f"(its student is {written_by}): {differs}"
        )


def check_labels(method: LightningModule, data: Any) -> None:
    """Raise an error for data without labels, where the method's terms read them.

    Raises:
        ConfigError: naming the field.
    """
    if method.needs_labels and not data.labeled:
        remedy = "set model.ce_weight to 0, or choose" if "teacher" in dict(method.named_children()) else "choose"
        raise ConfigError(
            f"data.labeled: {type(method).__name__} reads labels and there are none; {remedy} a method without labels"
        )


def check_dtype(teacher: Network, data: Any) -> None:
    """Raise an error for a `teacher.dtype` that trainer.precision would overrule.

    Raises:
        ConfigError: naming the field.
    """
    precision = data.trainer.precision if data.trainer else None
    if teacher.dtype not in (None, _CASTS.get(precision, teacher.dtype)):
        raise ConfigError(f"teacher.dtype: trainer.precision {precision} casts all weights; leave it out")


def warn_about_idle_parameters(method: LightningModule) -> None:
    """Warn about trainable parameters that received no gradient."""
    idle = [name for name, value in method.named_parameters() if value.requires_grad and value.grad is None]
    if idle:
        rank_zero_warn(
            f"model: {len(idle)} trainable parameters of {type(method).__name__} receive no gradient and keep their "
            f"initial values: {', '.join(idle[:3])}"
        )
