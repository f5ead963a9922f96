"""Trial of one step before a run begins: it finds networks, losses and optimizers that cannot train."""

import math
import traceback
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from kd_lightning import distributed
from kd_lightning.batch import Batch
from kd_lightning.distillation import passes
from kd_lightning.distillation.optimizer_trial import copies_with_gradients, try_optimizer
from kd_lightning.distillation.step_memory import StepMemory
from kd_lightning.distillation.student import StudentModule
from kd_lightning.distillation.unchanged import unchanged
from kd_lightning.distillation.unreached import backward, forward, freeze, prepared, smallest_batch
from kd_lightning.errors import ConfigError, one_line
from kd_lightning.io.own_files import own_frame
from kd_lightning.models import Network, Reads

_LONGEST_REASON = 200


def try_step(method: StudentModule, data: Any, *, nonfinite: str = "stop") -> set[str]:
    """Run a training step and an evaluation with a few training images, and freeze the parameters no loss reaches.

    It uses the run's device and precision, and changes nothing else (see `unchanged`). The optimizer and the schedule
    are tried on copies of a few parameters. In a distributed run only the first process of each machine calls this
    function, so that it communicates with no other process. The other processes call `freeze_unreached`.

    Args:
        method: method of the run.
        data: data of the run.
        nonfinite: reaction of the run to a loss that is not finite (`guard.nonfinite`). `skip` only warns about it.

    Returns:
        The names of the values that a training step logs.

    Raises:
        ConfigError: if a network, a loss, the backward pass, the optimizer or the schedule fails, if a loss is not
            finite, or if the memory is too small for a step. The message names the network, the method or the field.
    """
    trainer = method.trainer
    count = smallest_batch(method, data)
    memory = StepMemory(trainer.strategy.root_device, data)
    memory.check_images(*(network.size for network in _networks(method).values()))
    batch = data.some_training_images(count)
    with distributed.alone(), unchanged(method):
        try:
            names, unreached = _step(method, data, batch, memory, stops=nonfinite == "stop")
        except Exception as error:
            raise _explained(error, method, batch) from error
    memory.check_batch()
    freeze(method, unreached)
    return names


def _step(
    method: StudentModule, data: Any, batch: Batch, memory: StepMemory, *, stops: bool
) -> tuple[set[str], list[str]]:
    """Return the names of the logged values, and those of the parameters that no loss reaches."""
    batch = prepared(method, batch)
    with memory.counted(method, len(batch.images)):
        terms = forward(method, batch)
    _check(_not_finite(method, batch, terms), stops=stops)
    if not any(term.requires_grad for term in terms.values()):
        raise ConfigError(
            f"model: the losses of {type(method).__name__} do not depend on any trainable parameter, so that nothing "
            "is trained"
        )
    if idle := [f"train/{name}" for name, term in terms.items() if not term.requires_grad]:
        rank_zero_warn(
            f"model: {', '.join(idle)} {'depend' if len(idle) > 1 else 'depends'} on no trained parameter, and "
            f"therefore {'train' if len(idle) > 1 else 'trains'} nothing; only "
            f"{', '.join(f'train/{name}' for name, term in terms.items() if term.requires_grad)} trains the student"
        )
    unreached = backward(method, terms)
    _check(_without_finite_gradient(method), stops=False)
    try_optimizer(method, data, copies_with_gradients(method))
    method.eval()
    with torch.no_grad(), method.trainer.precision_plugin.forward_context():
        passes.run(method.deployed, batch.images, method.evaluation_reads)
    names = {name if "/" in name else f"train/{name}" for name in (*terms, *method.recorded, "loss", "lr")}
    return names, unreached


def _check(fault: str, *, stops: bool) -> None:
    if fault and stops:
        raise ConfigError(fault)
    if fault:
        rank_zero_warn(fault)


def _not_finite(method: StudentModule, batch: Batch, terms: dict[str, Tensor]) -> str:
    """Return a text that names the terms that are not finite, and the network that causes it. Return '' without any."""
    values = {name: float(term.detach()) for name, term in terms.items()}
    bad = " and ".join(f"train/{name} is {value}" for name, value in values.items() if not math.isfinite(value))
    if not bad:
        return ""
    networks = sorted(_networks(method).items(), key=lambda item: not item[1].frozen)
    with torch.no_grad(), method.trainer.precision_plugin.forward_context():
        for role, network in networks:
            seen = passes.run(network, batch.images, Reads(embedding=True, logits=network.num_classes > 0))
            for output in ("embedding", "logits"):
                if (value := getattr(seen, output)) is not None and not value.isfinite().all():
                    what = "has a value that is" if output == "embedding" else "have values that are"
                    return (
                        f"model.{role}: the {output} of {network.name} {what} not finite for {_images(batch)}, so that "
                        f"{bad}; check the weights, mean, std and dtype of this network, and trainer.precision"
                    )
    return (
        f"model: {bad} for {_images(batch)}, although the outputs of all networks are finite; change the arguments of "
        f"{type(method).__name__} or trainer.precision. In a method of your own, correct the loss, or set "
        "min_batch_size if it needs more images"
    )


def _without_finite_gradient(method: StudentModule) -> str:
    """Return a text that names parameters whose gradients are not finite. A gradient scaler handles them (16-mixed)."""
    if getattr(method.trainer.precision_plugin, "scaler", None) is not None:
        return ""
    given = {name: value.grad for name, value in method.named_parameters() if value.grad is not None}
    bad = [name for name, gradient in given.items() if not gradient.isfinite().all()]
    return f"model: the gradients of {len(bad)} parameters are not finite: {', '.join(bad[:3])}" if bad else ""


def _images(batch: Batch) -> str:
    return f"{len(batch.images)} images of {batch.images.shape[-1]} x {batch.images.shape[-2]} pixels"


def _networks(method: StudentModule) -> dict[str, Network]:
    teacher = {"teacher": method.teacher} if hasattr(method, "teacher") else {}
    return {"student": method.student, **teacher, **{name: each.network for name, each in method.further.items()}}


def _explained(error: Exception, method: StudentModule, batch: Batch) -> Exception:
    """Return an error of one line that names the network or the method in which an error was raised."""
    if isinstance(error, ConfigError):
        return error
    frames = [*traceback.walk_tb(error.__traceback__)]
    reason = f"{type(error).__name__}: {one_line(error, _LONGEST_REASON)}"
    own = own_frame(error, methods=True)
    images = _images(batch)
    within = [frame.f_locals.get("self") for frame, _ in frames]
    for role, network in _networks(method).items():
        if any(each is network for each in within):
            resized = (
                f", resized to {network.size} pixels" if network.size not in (None, batch.images.shape[-1]) else ""
            )
            return ConfigError(
                f"model.{role}: {network.name} cannot use {images}{resized} ({reason}); set data.size or "
                f"model.{role}.size to a size that the network accepts, change its model_kwargs, or choose another "
                "network"
            )
    frame, line = own or frames[-1]
    place = f"{Path(frame.f_code.co_filename).name}, line {line}"
    return ConfigError(
        f"model: {type(method).__name__} cannot train with {images} ({reason}, in {place}); change the method's "
        "arguments, the networks or data.size; guard.try_step false shows the complete traceback"
    )
