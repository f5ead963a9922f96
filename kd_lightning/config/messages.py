"""What is wrong in a config or on the command line, in one line with the nearest choices."""

import importlib
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy

from kd_lightning.data import Augmentation, ImageData
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError, nearest
from kd_lightning.models import Network
from kd_lightning.optim import RunSchedule

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


def config_error(error: BaseException | None) -> ConfigError | None:
    """The ConfigError in a chain of exceptions: jsonargparse wraps what a class's constructor raises."""
    while error is not None and not isinstance(error, ConfigError):
        error = error.__cause__ or error.__context__
    return error


def explain(message: str, options: set[str], commands: tuple[str, ...] = ()) -> str:
    """jsonargparse's message in one line: the field, what was given, the nearest of what could stand there.

    Args:
        message: as jsonargparse words it (4.53); a wording that is not known comes back with its lines joined.
        options: the parser's own keys (`trainer.max_epochs`, `run.name`, ...).
        commands: the names of further commands.
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
            return f"model.{given} is not an argument of Network{nearest(last, arguments_of(Network))}"
        if first not in groups:
            return f"{first} is not a field{nearest(first, groups)}"
        return f"{given} is not a field{nearest(given, options)}"
    if found := re.search(
        r"(?:Group '([\w.]+)' does not accept option|Option) '([^']+)'(?: is not accepted)?", message
    ):
        group, given = found[1], found[2]
        owner = _GROUPS.get(group.split(".")[-1]) if group else import_class(class_path)
        where = ".".join(filter(None, [field, group, given]))
        title = owner.__name__ if owner else class_path
        return f"{where} is not an argument of {title}{nearest(given, arguments_of(owner))}"
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
        return f"there is no command {found[1]!r}{nearest(found[1], [*re.findall(r'[a-z_]+', found[2]), *commands])}"
    if found := re.search(r"unrecognized arguments: (\S+)", message):
        return f"{found[1]!r} is no argument; each is given as --NAME VALUE or --NAME=VALUE"
    if found := re.search(r"Unable to load config ['\"](.+?)['\"]", message):
        return f"{field.split('.')[0]}: {found[1][:60]!r} is no table of settings"
    if field in _BASES:
        given = _last(r"Given value: (.+)", message)
        return f"{field}: {given[:160]} is no class_path with init_args{_some(field)}"
    return re.sub(r'^Parser key "([^"]+)":\s*', r"\1: ", message)


def _some(field: str) -> str:
    names = sorted(_classes(field))
    return f"; {field} can be {', '.join(names[:5])}{', ...' * (len(names) > 5)}" if names else ""


def _last(pattern: str, message: str) -> str:
    found = re.findall(pattern, message)
    return found[-1].strip() if found else ""


def _readable(expected: str) -> str:
    expected = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", expected)
    return re.sub(r"typing\.Literal\[(.+)\]", r"one of \1", expected)


def import_class(class_path: str) -> type | None:
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name, None) if module else None


def arguments_of(owner: type | None) -> set[str]:
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
