"""The argument parser: what is wrong in a config or on the command line, in one line with the nearest choices."""

import importlib
import inspect
import math
import os
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from jsonargparse import Namespace, get_loader, set_loader, set_parsing_settings
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy, StrategyRegistry

from kd_lightning.commands import ALONE, AROUND_FIT, ON_A_CONFIG
from kd_lightning.data import Augmentation, ImageData
from kd_lightning.errors import ConfigError, nearest
from kd_lightning.methods import StudentModule
from kd_lightning.models import Network, checkpoints
from kd_lightning.paths import check_name, resolve
from kd_lightning.plain_yaml import load_yaml
from kd_lightning.precision import check_precision
from kd_lightning.schedules import RunSchedule
from kd_lightning.secrecy import redacted, secret_field

# jsonargparse's own list of what no config may name (os, subprocess, builtins.eval, ...) is obeyed, not only warned of;
# a class_path where any value is allowed stays a table, and nothing is built of it
set_parsing_settings(import_path_denylist=[], instantiate_subclass_spec_in_any=False)
set_loader("yaml", partial(load_yaml, load=get_loader("yaml")), exceptions=(yaml.YAMLError,))

OTHER_COMMANDS = (*ON_A_CONFIG, *ALONE, *AROUND_FIT)
_GROUPS = {"teacher": Network, "student": Network}
_BASES = {
    "model": (StudentModule,),
    "data": (ImageData,),
    "augmentations": (Augmentation,),
    "lr_scheduler": (RunSchedule, torch.optim.lr_scheduler.LRScheduler),
    "optimizer": (torch.optim.Optimizer,),
    "callbacks": (Callback,),
    "logger": (Logger,),
    "profiler": (Profiler,),
    "strategy": (Strategy,),
}
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


class Parser(LightningArgumentParser):
    """Lightning's parser, which takes no abbreviations and reports a mistake as ConfigError's one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_args(self, args: Any = None, *more: Any, **kwargs: Any) -> Any:
        """As jsonargparse's; texts that are none are refused.

        Raises:
            ConfigError: for a NUL on the command line, and a file that is not text.
        """
        for given in sys.argv[1:] if args is None else args:
            if isinstance(given, str) and "\0" in given:
                raise ConfigError(f"{given.partition('=')[0].lstrip('-')}: {given!r} holds a NUL, which no name has")
        try:
            return super().parse_args(args, *more, **kwargs)
        except UnicodeError as error:
            raise ConfigError(f"config: it is not text in UTF-8 ({error})"[:300]) from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # one of the parsers that jsonargparse makes for a class: the outer one reports
            super().error(message, ex)
        known = config_error(ex)
        line = str(known) if known else redacted(explain(message, set(_destinations(self))))
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
    if found := re.search(r"Importing '([\w.]+)' is not allowed", message):
        return f"{field}: {found[1]} may not be named in a config, it could run commands or open files{_some(field)}"
    found = re.search(r"Import path (?:(\S+) )?does not correspond to a subclass of (\w+)", message)
    found = found or re.search(
        r"Expected '([\w.]+)' to be a (?:subclass of|function that returns) .*?(\w+)[\]'>]", message
    )
    if found:
        given = found[1] or _last(r"Given value: (.+)", message)
        return f"{field}: {given} is no {found[2]}{nearest(given.split('.')[-1], _classes(field)) or _some(field)}"
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
    if message.startswith("Unexpected config:"):
        given = message.removeprefix("Unexpected config:").strip()
        held = f"{given[:40]!r}" if given else "nothing"
        return f"config: it holds {held}, and no table of settings (model: ..., data: ...)"
    expected = list(
        dict.fromkeys(re.findall(r"Expected an? (?!<class 'NoneType'>)(.+?)(?:\. Got value.*)?$", message, re.M))
    )
    if field and expected:
        given = _last(r"Got value: (.+)", message) or _last(r"val='?([^')]+)'?\)", message)
        given = (given or _last(r"Given value: (.+)", message) or "nothing").split(". Got value: ")[0]
        if given.startswith("Namespace(") and (inner := re.search(rf"\b{field.split('.')[-1]}='?([^',()]+)", given)):
            given = inner[1]
        if nested := re.fullmatch(r"NestedArg\(key='[^']*', val=(.+)\)", given):
            given = nested[1]
        given = given if len(given) <= 160 else f"{given[:157]}..."
        kinds = {base.__name__ for base in _BASES.get(field.split(".")[-1], ())}
        expected = [kind for kind in expected if " but " not in kind and not kind.startswith("dot import path")]
        expected += sorted(kinds)
        if not expected:
            return f"{field}: {given} does not fit there"
        names = [name for kind in expected if "Literal[" in kind for name in re.findall(r"'([^']+)'", kind)]
        if names and given not in ("True", "False") and re.fullmatch(r"[\w-]*[A-Za-z][\w-]*", given):
            return f"{field}: there is no {given!r}{nearest(given, names)}"
        return f"{field}: {given} is not {' or '.join(map(_readable, expected))}"
    if found := re.search(r"invalid choice: '([^']+)' \(choose from (.+)\)", message):
        return (
            f"there is no command {found[1]!r}{nearest(found[1], [*re.findall(r'[a-z_]+', found[2]), *OTHER_COMMANDS])}"
        )
    if found := re.search(r"unrecognized arguments: (\S+)", message):
        return f"{found[1]!r} is no argument; each is given as --NAME VALUE or --NAME=VALUE"
    if found := re.search(r"Unable to load config ['\"](.+?)['\"]", message):
        return f"{field.split('.')[0]}: {found[1][:60]!r} is no table of settings"
    if field in _BASES:
        given = _last(r"Given value: (.+)", message)
        return f"{field}: {given[:160]} is no class_path with init_args{_some(field)}"
    return re.sub(r'^Parser key "([^"]+)":\s*', r"\1: ", message)


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
                f"{part}.{given} is not an argument of {kind}{nearest(given, _arguments(_imported(kind)))}"
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
    folder = run.get("folder")
    if folder is not None and (not folder or "\0" in folder or Path(folder).expanduser().is_file()):
        raise ConfigError(f"run.folder: {folder!r} is no folder; give one, or leave it out for runs/")


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


def _some(field: str) -> str:
    names = sorted(_classes(field))
    return f"; {field} can be {', '.join(names[:5])}{', ...' * (len(names) > 5)}" if names else ""


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
    subs = {sub for base in bases for sub in _subclasses(base) if not inspect.isabstract(sub)}
    return {sub.__name__ for sub in subs if not sub.__name__.startswith("_")}


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
