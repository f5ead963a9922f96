"""What is refused in a config before anything is built."""

import math
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from kd_lightning.config.messages import arguments_of, import_class
from kd_lightning.config.precision import check_precision
from kd_lightning.errors import ConfigError, is_key, nearest, redacted
from kd_lightning.io.paths import check_name, resolve
from kd_lightning.io.schema import check_schema
from kd_lightning.models import checkpoints

_LEAST = {
    "max_epochs": -1,
    "max_steps": -1,
    "min_epochs": 0,
    "min_steps": 0,
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "val_check_interval": 0,
    "log_every_n_steps": 0,
    "gradient_clip_val": 0,
    "overfit_batches": 0,
    "num_nodes": 1,
    "num_sanity_val_steps": -1,
}
_ENDLESS = ("data.init_args.memory_limit", "trainer.callbacks")
"""Numbers that may be infinite."""


def fixed_seed(seed: int | bool) -> int:
    """The seed of order and augmentation, from seed_everything.

    Raises:
        ConfigError: for a seed that is not a number, or one that numpy does not take.
    """
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise ConfigError(f"seed_everything: {seed} is not a number from 0 to 2**32 - 1")
    return seed


def validates(trainer: Namespace) -> bool:
    """Whether a trainer of this config ever validates."""
    epochs = trainer.max_epochs if trainer.max_epochs not in (None, -1) else float("inf")
    return trainer.limit_val_batches != 0 and (trainer.check_val_every_n_epoch or 1) <= epochs


def check(command: str | None, config: Namespace) -> None:
    """Refuses, before anything is built, what no class would: keys and passwords, numbers that are not finite, names
    that are no names, a device, strategy or precision that is not there, missing weights and a run without end.

    A checkpoint to go on from is read by tensors alone, here and by Lightning (`weights_only`).

    Raises:
        ConfigError: naming the field.
    """
    content = config.as_dict()
    check_schema(content, Path(str((config.get("config") or ["config"])[-1])), "config")
    for group in ("model", "data", "trainer", "run", "protocol", "guard", "speed"):
        if group in content and not isinstance(content[group], dict):
            raise ConfigError(f"{group}: {content[group]!r} is no table of settings; leave it out for the defaults")
    if field := secret_field({key: value for key, value in content.items() if key != "config"}):
        raise ConfigError(
            f"{_short(field)}: it holds a key or password, and a config is kept beside a run's results; give it as an "
            "environment variable (WANDB_API_KEY, HF_TOKEN) or by `wandb login`"
        )
    _check_numbers(content)
    _check_run(content.get("run") or {})
    for part in ("model", "data"):
        if surplus := content[part].get("dict_kwargs"):
            kind = content[part]["class_path"]
            given = str(next(iter(surplus)))
            raise ConfigError(
                f"{part}.{given} is not an argument of {kind}{nearest(given, arguments_of(import_class(kind)))}"
            )
    _check_trainer(content["trainer"])
    _check_device(config.trainer)
    check_precision(config.trainer.precision, config.trainer.accelerator)
    if config.trainer.max_epochs == config.trainer.max_steps == -1:
        raise ConfigError("trainer.max_epochs: -1 has no end; give a number, or trainer.max_steps")
    student = config.model.init_args.student
    if command in ("validate", "test", "predict") and not (
        config.get("ckpt_path") or student.checkpoint or student.pretrained
    ):
        raise ConfigError(f"ckpt_path: {command} needs a trained student; give a run's checkpoint as --ckpt_path")
    if config.get("weights_only") is False:
        raise ConfigError("weights_only: false would let a checkpoint run code; leave it out")
    if config.get("ckpt_path") is not None:
        path = resolve(config.ckpt_path, "ckpt_path")
        checkpoints.read(path, "ckpt_path")
        if path.suffix == ".safetensors":
            raise ConfigError(
                f"ckpt_path: {path} holds a student alone; give a run's .ckpt, or this file as model.student.checkpoint"
            )
        check_schema(torch.load(path, map_location="cpu", weights_only=True, mmap=True), path, "ckpt_path")
        config.ckpt_path, config.weights_only = str(path), True


def _check_numbers(value: Any, field: str = "") -> None:
    if isinstance(value, dict):
        ours = str(value.get("class_path", "kd_lightning.")).startswith(("kd_lightning.", "torch.", "lightning."))
        for name, inner in value.items():
            if name == "init_args" and not ours:  # a user's class says itself what it takes
                inner = {key: x for key, x in inner.items() if not isinstance(x, float)}
            _check_numbers(inner, f"{field}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_numbers(inner, field)
    elif isinstance(value, float) and not math.isfinite(value) and not field.startswith(_ENDLESS):
        raise ConfigError(f"{_short(field)}: {value} is not a finite number")


def _check_run(run: dict[str, Any]) -> None:
    for name in ("project", "name", "id"):
        if run.get(name) is not None:
            check_name(run[name], f"run.{name}")
    folder = run.get("output_dir")
    if folder is not None and (not folder or "\0" in folder or Path(folder).expanduser().is_file()):
        raise ConfigError(f"run.output_dir: {folder!r} is no folder; give one, or leave it out for runs/")


def _check_trainer(trainer: dict[str, Any]) -> None:
    """What Lightning takes, and fails of in the middle of a run."""
    for name, least in _LEAST.items():
        value = trainer.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value < least:
            raise ConfigError(f"trainer.{name}: {value} is less than {least}")
    for name in ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"):
        value = trainer.get(name)
        if isinstance(value, int | float) and (value < 0 or (value > 1 and value != int(value))):
            raise ConfigError(f"trainer.{name}: {value} is neither a share from 0.0 to 1.0 nor a number of batches")
    if trainer.get("limit_train_batches") == 0:
        raise ConfigError("trainer.limit_train_batches: 0 leaves nothing to learn from; leave it out for all")


def _check_device(trainer: Namespace) -> None:
    accelerator, strategy = trainer.accelerator, trainer.strategy
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ConfigError(f"trainer.accelerator: {accelerator}, and this machine has none; choose auto or cpu")
    if isinstance(accelerator, str) and accelerator not in ("auto", "gpu"):
        known = {"auto", "gpu", *AcceleratorRegistry}
        if accelerator not in known:
            raise ConfigError(f"trainer.accelerator: there is no {accelerator!r}{nearest(accelerator, known)}")
        if not AcceleratorRegistry[accelerator]["accelerator"].is_available():
            raise ConfigError(f"trainer.accelerator: {accelerator}, and this machine has none; choose auto or cpu")
    if isinstance(strategy, str) and strategy not in (known := {"auto", *StrategyRegistry.available_strategies()}):
        raise ConfigError(f"trainer.strategy: there is no {strategy[:60]!r}{nearest(strategy, known)}")


def _short(field: str) -> str:
    """A field as it is given on the command line."""
    return field.replace(".init_args", "")


def secret_field(config: Any, field: str = "") -> str | None:
    """The dotted name of the first value in nested tables and lists that is a key or a password; None if none is."""
    if isinstance(config, dict):
        for name, value in config.items():
            if isinstance(value, str) and is_key(str(name), value):
                return f"{field}.{name}".lstrip(".")
            if found := secret_field(value, f"{field}.{name}".lstrip(".")):
                return found
    elif isinstance(config, list | tuple):
        return next((found for value in config if (found := secret_field(value, field))), None)
    elif isinstance(config, str) and redacted(config) != config:
        return field
    return None
