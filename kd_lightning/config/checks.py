"""Checks of a config, before any object is built from it."""

import inspect
import math
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.strategies import StrategyRegistry

from kd_lightning.config.classes import accepts_none, arguments_of, classes_of, import_class
from kd_lightning.config.lightning_classes import check_lightning_classes
from kd_lightning.config.own_classes import check_passes_arguments
from kd_lightning.config.precision import check_precision
from kd_lightning.config.sub_configs import check_no_further_config
from kd_lightning.errors import ConfigError, nearest
from kd_lightning.io.schema import check_schema
from kd_lightning.redaction import allow_names, secret_field

_MINIMA = {
    "min_epochs": 0,
    "min_steps": 0,
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 0,
    "gradient_clip_val": 0,
    "num_sanity_val_steps": -1,
}
_LIMITS = {"validate": "val", "test": "test", "predict": "predict"}
"""For each command that only evaluates, the name of its images in the trainer's limits of batches."""
_UNUSABLE = {
    "Lookahead": "another optimizer as its argument; choose that optimizer itself",
    "Adahessian": "second derivatives, which a run does not compute; choose AdamW",
    **dict.fromkeys(
        ("ChainedScheduler", "SequentialLR"), "schedules that are already built; choose WarmupCosine or WarmupMultiStep"
    ),
}
"""Optimizers and schedules that a config cannot use, and what they need."""
_ENDLESS = ("data.init_args.memory_limit", "trainer.callbacks")
"""First parts of the names of fields whose numbers may be infinite."""


def fixed_seed(seed: int | bool) -> int:
    """Return the value of `seed_everything`, which also seeds the order and the augmentation of the images.

    Raises:
        ConfigError: if the seed is not an integer from 0 to 2**32 - 1.
    """
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise ConfigError(f"seed_everything: {seed} is not an integer from 0 to 2**32 - 1")
    return seed


def validates(trainer: Namespace) -> bool:
    """Return whether a trainer with this config validates at least once."""
    epochs = trainer.max_epochs if trainer.max_epochs not in (None, -1) else float("inf")
    return trainer.limit_val_batches != 0 and (trainer.check_val_every_n_epoch or 1) <= epochs


def check(command: str | None, config: Namespace) -> None:
    """Raise an error for wrong settings that the classes in the config do not check.

    Examples are passwords, infinite numbers, a run without end, and a precision that the device does not support.
    Another example is a student without weights, if the command needs a trained student.

    Raises:
        ConfigError: for the first wrong setting. The message names the field.
    """
    content = config.as_dict()
    check_schema(content, Path(str((config.get("config") or ["config"])[-1])), "config")
    check_no_further_config(config.get("config") or [])
    for group in ("model", "data", "trainer", "run", "protocol", "guard", "speed"):
        if group in content and not isinstance(content[group], dict):
            given = "null" if content[group] is None else repr(content[group])
            raise ConfigError(f"{group}: {given} is not a YAML mapping; omit the field to use the defaults")
    allow_names([*content["run"].values(), *(content["run"].get("tags") or [])])
    if field := secret_field({key: value for key, value in content.items() if key != "config"}):
        raise ConfigError(
            f"{_short(field)}: the value contains a key or password, which would be saved with the run's results; "
            "remove it, and use an environment variable (WANDB_API_KEY, HF_TOKEN) or `wandb login`"
        )
    _check_numbers(content)
    _check_classes(content)
    _check_trainer(content["trainer"])
    _check_length(command, content["trainer"])
    _check_evaluated(command, content)
    check_lightning_classes(content["trainer"])
    _check_optimizer(content["model"]["init_args"])
    known = {"auto", *StrategyRegistry.available_strategies()}
    if isinstance(strategy := config.trainer.strategy, str) and strategy not in known:
        raise ConfigError(f"trainer.strategy: {strategy[:60]!r} is not a valid value{nearest(strategy, known)}")
    check_precision(config.trainer.precision, config.trainer.accelerator)
    if config.trainer.max_epochs == config.trainer.max_steps == -1:
        raise ConfigError("trainer.max_epochs: -1 would train without end; set a number, or set trainer.max_steps")
    check_passes_arguments(config.model)
    student = config.model.init_args.student
    if command in ("validate", "test", "predict") and not (
        config.get("ckpt_path") or student.checkpoint or student.pretrained
    ):
        raise ConfigError(
            f"ckpt_path: {command} needs a trained student; give the folder of a run, as in `{command} RUN`"
        )
    if config.get("weights_only") is False:
        raise ConfigError("weights_only: false would let a checkpoint run code; remove this setting")


def _check_numbers(value: Any, field: str = "") -> None:
    if isinstance(value, dict):
        is_known = str(value.get("class_path", "kd_lightning.")).startswith(("kd_lightning.", "torch.", "lightning."))
        for name, inner in value.items():
            if name == "init_args" and not is_known:  # a class of another package may accept infinity or NaN
                inner = {key: x for key, x in inner.items() if not isinstance(x, float)}
            _check_numbers(inner, f"{field}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_numbers(inner, field)
    elif isinstance(value, float) and not math.isfinite(value) and not field.startswith(_ENDLESS):
        raise ConfigError(f"{_short(field)}: {value} is not a finite number")


def _check_classes(content: dict[str, Any]) -> None:
    """Raise an error if the class of the method, of a part or of the data is abstract or has unknown arguments."""
    parts = content["model"]["init_args"].get("parts")
    parts = [("model.parts", part) for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    for field, settings in [("model", content["model"]), ("data", content["data"]), *parts]:
        kind, unknown = settings.get("class_path", ""), str(next(iter(settings.get("dict_kwargs") or []), ""))
        if unknown:
            raise ConfigError(f"{field}.{unknown} is not an argument of {kind}{nearest(unknown, arguments_of(kind))}")
        _check_nulls(field, kind, settings.get("init_args") or {})
        if inspect.isabstract(import_class(kind)):
            raise ConfigError(f"{field}: {kind} is abstract; choices: {', '.join(sorted(classes_of(field)))}")


def _check_nulls(field: str, class_path: str, arguments: dict[str, Any]) -> None:
    """Raise an error for a null that jsonargparse accepts, although the argument of the class cannot be None."""
    for name, value in arguments.items():
        if value is None and not accepts_none(class_path, name):
            raise ConfigError(f"{field}.{name}: null is not a valid value; omit the field to use its default")
        if name in ("student", "teacher", "assistant") and isinstance(value, dict):
            _check_nulls(f"{field}.{name}", "kd_lightning.models.Network", value)


def _check_trainer(trainer: dict[str, Any]) -> None:
    """Raise an error for values that Lightning accepts at first, but with which it fails later in the run."""
    for name, minimum in _MINIMA.items():
        value = trainer.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value < minimum:
            raise ConfigError(f"trainer.{name}: {value} is less than {minimum}")
    if trainer.get("val_check_interval") == 0:
        raise ConfigError("trainer.val_check_interval: 0 is not above 0; set limit_val_batches to 0 for no validation")
    if trainer.get("enable_checkpointing") is False:
        raise ConfigError("trainer.enable_checkpointing: a run always writes its checkpoints; remove this setting")
    if trainer.get("barebones"):
        raise ConfigError("trainer.barebones: true excludes the checkpoints and metrics of a run; remove this setting")
    if trainer.get("limit_train_batches") == 0:
        raise ConfigError("trainer.limit_train_batches: 0 would train on no batches; omit the field to train on all")


def _check_length(command: str | None, trainer: dict[str, Any]) -> None:
    """Raise an error if `fit` would take no step."""
    for name in ("max_epochs", "max_steps"):
        if command == "fit" and trainer.get(name) == 0:
            raise ConfigError(f"trainer.{name}: 0 would train nothing; give a number above 0")


def _check_optimizer(model: dict[str, Any]) -> None:
    """Raise an error for an optimizer or a schedule that a config cannot build or that a run cannot use."""
    for field in ("optimizer", "lr_scheduler"):
        given = model.get(field)
        name = str(given.get("class_path", "") if isinstance(given, dict) else "").rpartition(".")[2]
        if name in _UNUSABLE:
            raise ConfigError(f"model.{field}: {name} cannot be used, because it needs {_UNUSABLE[name]}")


def _check_evaluated(command: str | None, content: dict[str, Any]) -> None:
    """Raise an error if the trainer's limit excludes all images that a command evaluates."""
    if command in _LIMITS and content["trainer"].get(f"limit_{_LIMITS[command]}_batches") == 0:
        field = f"trainer.limit_{_LIMITS[command]}_batches"
        raise ConfigError(f"{field}: with 0, {command} would read no images; omit the field to read all")
    tests = command == "fit" and (content.get("protocol") or {}).get("test")
    if tests and content["trainer"].get("limit_test_batches") == 0:
        raise ConfigError(
            "trainer.limit_test_batches: with 0, the test at the end of fit would read no images; to omit the test, "
            "set protocol.test to false"
        )


def _short(field: str) -> str:
    """Return the name of a field as it is written on the command line."""
    return field.replace(".init_args", "")
