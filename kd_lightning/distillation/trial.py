"""Trial of one step before a run begins: it finds networks, losses and optimizers that cannot train."""

import math
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from kd_lightning import distributed
from kd_lightning.batch import Batch
from kd_lightning.distillation import passes
from kd_lightning.distillation.checks import losses_change_no_feature
from kd_lightning.distillation.optimizer_trial import copies_with_gradients, try_optimizer
from kd_lightning.distillation.step_memory import StepMemory
from kd_lightning.distillation.student import StudentModule
from kd_lightning.distillation.trial_errors import explained, images_of, networks_of
from kd_lightning.distillation.unchanged import unchanged
from kd_lightning.distillation.unreached import backward, forward, freeze, in_each_stage, prepared, smallest_batch
from kd_lightning.errors import ConfigError
from kd_lightning.models import Reads


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
    memory.check_images(*(network.size for network in networks_of(method).values()))
    batch = data.some_training_images(count)
    with distributed.alone(), unchanged(method):
        try:
            names, unreached = _step(method, data, batch, memory, stops=nonfinite == "stop")
        except Exception as error:
            raise explained(error, method, batch) from error
    memory.check_batch()
    freeze(method, unreached)
    return names


def _step(
    method: StudentModule, data: Any, batch: Batch, memory: StepMemory, *, stops: bool
) -> tuple[set[str], dict[tuple[int, ...], list[str]]]:
    """Return the names of the logged values, and those of the parameters that no loss reaches, by stage."""
    batch = prepared(method, batch)
    names, unreached, reached = {"loss", "lr"}, {}, {}
    for stage in in_each_stage(method):
        with memory.counted(method, len(batch.images)), losses_change_no_feature(method):
            terms = forward(method, batch)
        _check(_not_finite(method, batch, terms), stops=stops)
        _check_reached(method, terms)
        reached |= {name: reached.get(name, False) or term.requires_grad for name, term in terms.items()}
        unreached[stage] = backward(method, terms)
        names |= {*terms, *method.recorded}
    _warn_of_idle_terms(reached)
    _check(_without_finite_gradient(method), stops=False)
    try_optimizer(method, data, copies_with_gradients(method))
    method.eval()
    with torch.no_grad(), method.trainer.precision_plugin.forward_context():
        passes.run(method.deployed, batch.images, method.evaluation_reads)
    return {name if "/" in name else f"train/{name}" for name in names}, unreached


def _check_reached(method: StudentModule, terms: dict[str, Tensor]) -> None:
    """Raise an error if no term depends on a trained parameter."""
    if not any(term.requires_grad for term in terms.values()):
        raise ConfigError(
            f"model: the losses of {type(method).__name__} do not depend on any trainable parameter, so that nothing "
            "is trained"
        )


def _warn_of_idle_terms(reached: dict[str, bool]) -> None:
    """Warn about the terms that depend on no trained parameter.

    Args:
        reached: Names of all terms of a run, and whether they depend on a trained parameter in a stage.
    """
    if idle := [f"train/{name}" for name, trains in reached.items() if not trains]:
        rank_zero_warn(
            f"model: {', '.join(idle)} {'depend' if len(idle) > 1 else 'depends'} on no trained parameter, and "
            f"therefore {'train' if len(idle) > 1 else 'trains'} nothing; only "
            f"{', '.join(f'train/{name}' for name, trains in reached.items() if trains)} trains the student"
        )


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
    networks = sorted(networks_of(method).items(), key=lambda item: not item[1].frozen)
    with torch.no_grad(), method.trainer.precision_plugin.forward_context():
        for role, network in networks:
            seen = passes.run(network, batch.images, Reads(embedding=True, logits=network.num_classes > 0))
            for output in ("embedding", "logits"):
                if (value := getattr(seen, output)) is not None and not value.isfinite().all():
                    what = "has a value that is" if output == "embedding" else "have values that are"
                    return (
                        f"model.{role}: the {output} of {network.name} {what} not finite for {images_of(batch)}, so "
                        f"that {bad}; check the weights, mean, std and dtype of this network, and trainer.precision"
                    )
    return (
        f"model: {bad} for {images_of(batch)}, although the outputs of all networks are finite; change the arguments "
        f"of {type(method).__name__} or trainer.precision. In a method of your own, correct the loss, or set "
        "min_batch_size if it needs more images"
    )


def _without_finite_gradient(method: StudentModule) -> str:
    """Return a text that names parameters whose gradients are not finite. A gradient scaler handles them (16-mixed)."""
    if getattr(method.trainer.precision_plugin, "scaler", None) is not None:
        return ""
    given = {name: value.grad for name, value in method.named_parameters() if value.grad is not None}
    bad = [name for name, gradient in given.items() if not gradient.isfinite().all()]
    return f"model: the gradients of {len(bad)} parameters are not finite: {', '.join(bad[:3])}" if bad else ""
