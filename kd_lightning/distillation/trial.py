"""Trial of one step before a run begins: it finds networks and losses that cannot use the images."""

import traceback
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from kd_lightning import distributed
from kd_lightning.batch import Batch
from kd_lightning.distillation import checks, passes
from kd_lightning.distillation.step_memory import StepMemory
from kd_lightning.distillation.student import StudentModule
from kd_lightning.distillation.unchanged import unchanged
from kd_lightning.distillation.unreached import smallest_batch
from kd_lightning.errors import ConfigError, one_line
from kd_lightning.io.own_files import own_frame
from kd_lightning.models import Network

_LONGEST_REASON = 200


def try_step(method: StudentModule, data: Any) -> set[str]:
    """Run a training step without the optimizer, and an evaluation, with a few training images.

    It uses the run's device and precision, and changes nothing (see `unchanged`). In a distributed run only the first
    process of each machine calls it, so that it communicates with no other process. Strategies that distribute the
    weights of a network are not tried.

    Returns:
        The names of the values that a training step logs.

    Raises:
        ConfigError: if a network, a loss or the backward pass fails, or if the memory is too small for a step. The
            message names the network or the method, and the size of the images.
    """
    trainer = method.trainer
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        return set()
    count = smallest_batch(method, data)
    memory = StepMemory(trainer.strategy.root_device, data)
    memory.check_images(*(network.size for network in _networks(method).values()))
    batch = data.some_training_images(count)
    with distributed.alone(), unchanged(method):
        try:
            names = _step(method, batch, memory)
        except Exception as error:
            raise _explained(error, method, batch) from error
    memory.check_batch()
    return names


def _step(method: StudentModule, batch: Batch, memory: StepMemory) -> set[str]:
    trainer = method.trainer
    trainer.precision_plugin.convert_module(method)
    method.to(trainer.strategy.root_device)
    method.train()
    method.recording = True
    batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch), dataloader_idx=0)
    with trainer.precision_plugin.forward_context(), memory.counted(method, len(batch.images)):
        terms = method.training_terms(batch)
        checks.check_finite(method, terms, len(batch.images))
        total = torch.stack([*terms.values()]).sum()
    if total.requires_grad:
        total.backward()
    method.eval()
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        passes.run(method.student, batch.images, method.evaluation_reads)
    return {name if "/" in name else f"train/{name}" for name in (*terms, *method.recorded, "loss", "lr")}


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
    images = f"{len(batch.images)} images of {batch.images.shape[-1]} x {batch.images.shape[-2]} pixels"
    within = [frame.f_locals.get("self") for frame, _ in frames]
    for role, network in _networks(method).items():
        if any(each is network for each in within):
            resized = (
                f", resized to {network.size} pixels" if network.size not in (None, batch.images.shape[-1]) else ""
            )
            return ConfigError(
                f"model.{role}: {network.name} cannot use {images}{resized} ({reason}); set data.size or "
                f"model.{role}.size to a size that the network accepts, or choose another network"
            )
    frame, line = own or frames[-1]
    place = f"{Path(frame.f_code.co_filename).name}, line {line}"
    return ConfigError(
        f"model: {type(method).__name__} cannot train with {images} ({reason}, in {place}); change the method's "
        "arguments, the networks or data.size; guard.try_step false shows the complete traceback"
    )
