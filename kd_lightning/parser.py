"""The argument parser: what is wrong in a config or on the command line, in one line with the nearest choices."""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser

from kd_lightning.commands import ALONE, AROUND_FIT, ON_A_CONFIG
from kd_lightning.data import Augmentation, ImageData
from kd_lightning.errors import ConfigError, nearest
from kd_lightning.methods import StudentModule
from kd_lightning.models import Network, checkpoints
from kd_lightning.paths import resolve
from kd_lightning.precision import check_precision
from kd_lightning.schedules import RunSchedule

OTHER_COMMANDS = (*ON_A_CONFIG, *ALONE, *AROUND_FIT)
_GROUPS = {"teacher": Network, "student": Network}
_BASES = {
    "model": (StudentModule,),
    "data": (ImageData,),
    "augmentations": (Augmentation,),
    "lr_scheduler": (RunSchedule, torch.optim.lr_scheduler.LRScheduler),
    "optimizer": (torch.optim.Optimizer,),
    "callbacks": (Callback,),
}


class Parser(LightningArgumentParser):
    """Lightning's parser, which takes no abbreviations and reports a mistake as ConfigError's one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # one of the parsers that jsonargparse makes for a class: the outer one reports
            super().error(message, ex)
        known = config_error(ex)
        line = str(known) if known else explain(message, set(_destinations(self)))
        sys.stderr.write(f"error: {' '.join(line.split())}\n")
        self.exit(2)


def config_error(error: BaseException | None) -> ConfigError | None:
    """The ConfigError in a chain of exceptions: jsonargparse wraps what a class's constructor raises."""
    while error is not None and not isinstance(error, ConfigError):
        error = error.__cause__ or error.__context__
    return error


def explain(message: str, options: set[str]) -> str:
    """jsonargparse's message in one line: the field, what was given, the nearest of what could stand there.

    Args:
        message: as jsonargparse words it (4.53); a wording that is not known comes back with its lines joined.
        options: the parser's own keys (`trainer.max_epochs`, `run.name`, ...).
    """
    field = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    class_path = _last(r"Problem with given class_path '([^']+)'", message)
    if found := re.search(
        r"unrecognized arguments: --([^\s=]+)|^Subcommand .+ does not accept option '([^']+)'$", message
    ):
        given = found[1] or found[2]
        first, last = given.split(".")[0], given.split(".")[-1]
        groups = {option.split(".")[0] for option in options}
        if first in _GROUPS:  # of the model, cut by jsonargparse
            return f"model.{given} is not an argument of Network{nearest(last, _arguments(Network))}"
        if first not in groups:
            return f"{first} is not a field{nearest(first, groups)}"
        return f"{given} is not a field{nearest(given, options)}"
    if found := re.search(
        r"(?:Group '([\w.]+)' does not accept option|Option) '([^']+)'(?: is not accepted)?", message
    ):
        group, given = found[1], found[2]
        owner = _GROUPS.get(group.split(".")[-1]) if group else _imported(class_path)
        where = ".".join(filter(None, [field, group, given]))
        title = owner.__name__ if owner else class_path
        return f"{where} is not an argument of {title}{nearest(given, _arguments(owner))}"
    found = re.search(r"Expected a dot import path string: (\S+)", message)
    if found and _classes(field):
        return f"{field}: there is no class {found[1]!r}{nearest(found[1], _classes(field))}"
    if found := re.search(r"but (\w+) is abstract", message):
        return f"{field}: {found[1]} is a base, not itself to be chosen; choices: {', '.join(sorted(_classes(field)))}"
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        return f"{field}: {found[1]} has no {found[2]!r}{nearest(found[2], vars(importlib.import_module(found[1])))}"
    if found := re.search(r"the following arguments are required: (.+?)(?:\. Got value|$)", message, re.M):
        missing = found[1].strip().removeprefix("fit.").removeprefix("test.")
        return f"{'.'.join(filter(None, [field, missing]))} is required and not given"
    if class_path and "No module named" in message:
        return f"{field}: {class_path} cannot be imported{nearest(class_path.split('.')[-1], _classes(field))}"
    if found := re.search(r"File does not exist: '(.+)'", message):
        path = Path(found[1])
        beside = os.listdir(path.parent) if path.parent.is_dir() else []
        return f"{field}: {path} does not exist{nearest(path.name, beside)}"
    if message.startswith("Problems parsing config: "):
        return f"config: it is not valid YAML: {message.removeprefix('Problems parsing config: ')}"
    expected = list(
        dict.fromkeys(re.findall(r"Expected an? (?!<class 'NoneType'>)(.+?)(?:\. Got value.*)?$", message, re.M))
    )
    if field and expected:
        given = _last(r"Got value: (.+)", message) or _last(r"val='?([^')]+)'?\)", message)
        given = given or _last(r"Given value: (.+)", message)
        expected = [kind for kind in expected if not kind.startswith("path but ")]
        names = re.findall(r"'([^']+)'", " ".join(expected))
        if names and re.fullmatch(r"[\w-]*[A-Za-z][\w-]*", given):
            return f"{field}: there is no {given!r}{nearest(given, names)}"
        return f"{field}: {given} is not {' or '.join(map(_readable, expected))}"
    if found := re.search(r"invalid choice: '([^']+)' \(choose from (.+)\)", message):
        return (
            f"there is no command {found[1]!r}{nearest(found[1], [*re.findall(r'[a-z_]+', found[2]), *OTHER_COMMANDS])}"
        )
    return message


def fixed_seed(seed: int | bool) -> int:
    """The seed of order and augmentation, from seed_everything.

    Raises:
        ConfigError: for a seed that is not a number, or one that numpy does not take.
    """
    if isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed_everything: {seed} is not a number from 0 to 2**32 - 1")
    return seed


def validates(trainer: Namespace) -> bool:
    """Whether a trainer of this config ever validates."""
    epochs = trainer.max_epochs if trainer.max_epochs not in (None, -1) else float("inf")
    return trainer.limit_val_batches != 0 and (trainer.check_val_every_n_epoch or 1) <= epochs


def check(command: str | None, config: Namespace) -> None:
    """Refuses, before anything is built, a GPU or precision that is not there, missing weights and a run without end.

    Raises:
        ConfigError: naming the field.
    """
    if config.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"trainer.accelerator: {config.trainer.accelerator}, and this machine has none; choose auto or cpu"
        )
    check_precision(config.trainer.precision, config.trainer.accelerator)
    if config.trainer.max_epochs == config.trainer.max_steps == -1:
        raise ConfigError("trainer.max_epochs: -1 has no end; give a number, or trainer.max_steps")
    student = config.model.init_args.student
    if command in ("validate", "test", "predict") and not (
        config.get("ckpt_path") or student.checkpoint or student.pretrained
    ):
        raise ConfigError(f"ckpt_path: {command} needs a trained student; give a run's checkpoint as --ckpt_path")
    if config.get("ckpt_path"):
        path = resolve(config.ckpt_path, "ckpt_path")
        checkpoints.read(path, "ckpt_path")
        if path.suffix == ".safetensors":
            raise ConfigError(
                f"ckpt_path: {path} holds a student alone; give a run's .ckpt, or this file as model.student.checkpoint"
            )
        config.ckpt_path = str(path)


def _last(pattern: str, message: str) -> str:
    found = re.findall(pattern, message)
    return found[-1].strip() if found else ""


def _readable(expected: str) -> str:
    expected = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", expected)
    return re.sub(r"typing\.Literal\[(.+)\]", r"one of \1", expected)


def _imported(class_path: str) -> type | None:
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name, None) if module else None


def _arguments(owner: type | None) -> set[str]:
    """The arguments of a class, its bases' included where it passes **kwargs on."""
    bases = inspect.getmro(owner) if owner else ()
    names = {n for base in bases if "__init__" in vars(base) for n in inspect.signature(base.__init__).parameters}
    return names - {"self", "args", "kwargs"}


def _classes(field: str) -> set[str]:
    """The names of the classes that may stand in a field."""
    bases = _BASES.get(field.split(".")[-1], ())
    return {sub.__name__ for base in bases for sub in _subclasses(base) if not inspect.isabstract(sub)}


def _subclasses(base: type) -> Iterator[type]:
    for sub in base.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def _destinations(parser: LightningArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(getattr(action, "choices", None), dict):  # the subcommands
            for sub in action.choices.values():
                yield from _destinations(sub)
        else:
            yield action.dest
