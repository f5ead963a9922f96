"""Checks of a config before anything is built."""

import inspect
import math
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.strategies import StrategyRegistry

from kd_lightning.config.classes import arguments_of, classes_of, import_class
from kd_lightning.config.precision import check_precision
from kd_lightning.config.sub_configs import check_no_further_config
from kd_lightning.errors import ConfigError, nearest, secret_field
from kd_lightning.io.schema import check_schema

_LEAST = {
    "min_epochs": 0,
    "min_steps": 0,
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 0,
    "gradient_clip_val": 0,
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
    """Check a config, before anything is built, for what no class checks: keys and passwords, numbers that are not
    finite, a precision that the device does not have, missing weights, a run without end.

    Raises:
        ConfigError: naming the field.
    """
    content = config.as_dict()
    check_schema(content, Path(str((config.get("config") or ["config"])[-1])), "config")
    check_no_further_config(config.get("config") or [])
    for group in ("model", "data", "trainer", "run", "protocol", "guard", "speed"):
        if group in content and not isinstance(content[group], dict):
            raise ConfigError(f"{group}: {content[group]!r} is no table of settings; leave it out for the defaults")
    if field := secret_field({key: value for key, value in content.items() if key != "config"}):
        raise ConfigError(
            f"{_short(field)}: it holds a key or password, and a config is kept beside a run's results; give it as an "
            "environment variable (WANDB_API_KEY, HF_TOKEN) or by `wandb login`"
        )
    _check_numbers(content)
    _check_classes(content)
    _check_trainer(content["trainer"])
    known = {"auto", *StrategyRegistry.available_strategies()}
    if isinstance(strategy := config.trainer.strategy, str) and strategy not in known:
        raise ConfigError(f"trainer.strategy: there is no {strategy[:60]!r}{nearest(strategy, known)}")
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


def _check_classes(content: dict[str, Any]) -> None:
    """Check the classes of method, parts of `Combined`, and data: surplus arguments, and parts that are abstract."""
    parts = content["model"]["init_args"].get("parts")
    parts = [("model.parts", part) for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    for field, given in [("model", content["model"]), ("data", content["data"]), *parts]:
        kind, surplus = given.get("class_path", ""), str(next(iter(given.get("dict_kwargs") or []), ""))
        if surplus:
            raise ConfigError(f"{field}.{surplus} is not an argument of {kind}{nearest(surplus, arguments_of(kind))}")
        if inspect.isabstract(import_class(kind)):
            raise ConfigError(f"{field}: {kind} is abstract; choices: {', '.join(sorted(classes_of(field)))}")


def _check_trainer(trainer: dict[str, Any]) -> None:
    """Check what Lightning accepts, and fails of in the middle of a run."""
    for name, least in _LEAST.items():
        value = trainer.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value < least:
            raise ConfigError(f"trainer.{name}: {value} is less than {least}")
    if trainer.get("limit_train_batches") == 0:
        raise ConfigError("trainer.limit_train_batches: 0 leaves nothing to learn from; leave it out for all")


def _short(field: str) -> str:
    """A field as it is given on the command line."""
    return field.replace(".init_args", "")
