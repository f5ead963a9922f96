"""What is wrong in a config or on the command line, in one line with the nearest choices."""

import importlib
import inspect
import re
from collections.abc import Iterator

from kd_lightning.config.sub_configs import sub_config_error
from kd_lightning.errors import ConfigError, nearest

_BASES = {
    "model": ("kd_lightning.distillation.StudentModule",),
    "parts": ("kd_lightning.distillation.Distiller",),
    "data": ("kd_lightning.data.ImageData",),
    "augmentations": ("kd_lightning.data.Augmentation",),
    "lr_scheduler": ("kd_lightning.optim.RunSchedule", "torch.optim.lr_scheduler.LRScheduler"),
    "optimizer": ("torch.optim.Optimizer",),
    "callbacks": ("lightning.pytorch.callbacks.Callback",),
    "logger": ("lightning.pytorch.loggers.Logger",),
}
"""Base classes of what a field takes; imported only where the field is wrong."""
_NETWORKS = ("teacher", "student")
_UNKNOWN_CLASS = (
    r"Import path (?:(?P<given>\S+) )?does not correspond to a subclass of (?P<base>\w+)",
    r"Expected '(?P<given>[\w.]+)' to be a (?:subclass of|function that returns) .*?(?P<base>\w+)[\]'>]",
    r"Expected a dot import path string: (?P<given>\S+)",
    r"module '[\w.]+' has no attribute '(?P<given>\w+)'",
    r"but (?P<given>\w+) is abstract",
    r"Problem with given class_path '(?P<given>[^']+)'[\s\S]*No module named",
)


def config_error(error: BaseException | None) -> ConfigError | None:
    """Return the ConfigError in a chain of exceptions: jsonargparse wraps what a class's constructor raises."""
    while error is not None and not isinstance(error, ConfigError):
        error = error.__cause__ or error.__context__
    return error


def explain(message: str, options: set[str] = frozenset()) -> str:
    """Return a message of jsonargparse (4.53) for a user: the field, what was given, the nearest choices.

    Rewritten are messages about an unknown field, an unknown class, a value of a wrong type and a missing value. All
    others are returned with their field in front.

    Args:
        message: as jsonargparse words it.
        options: the parser's own keys (`trainer.max_epochs`, `run.name`, ...).
    """
    keys = dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message))
    field = ".".join(key for key in keys if not any(other.startswith(f"{key}.") for other in keys))
    for kind in (sub_config_error, _unknown_field, _unknown_class, _missing, _wrong_type):
        if line := kind(message, field, options):
            return line
    message = re.sub(r'Parser key "[^"]+":\s*', "", message)
    return f"{field}: {message}" if field and not message.startswith(field) else message


def _unknown_field(message: str, field: str, options: set[str]) -> str:
    found = re.search(r"(?:unrecognized arguments: --|^Subcommand .+ does not accept option ')([^\s=']+)", message)
    if found:
        given = found[1]
        first, last = given.split(".")[0], given.split(".")[-1]
        if first in _NETWORKS:  # jsonargparse cuts the model's name off
            return f"model.{given} is not an argument of Network{nearest(last, _network_arguments())}"
        groups = {option.split(".")[0] for option in options}
        known = options if first in groups else groups
        return (
            f"{given if first in groups else first} is not a field{nearest(given if first in groups else first, known)}"
        )
    found = re.search(r"(?:Group '([\w.]+)' does not accept option|Option) '([^']+)'(?: is not accepted)?", message)
    if not found:
        return ""
    group, given, class_path = found[1], found[2], _last(r"Problem with given class_path '([^']+)'", message)
    is_network = bool(group) and group.split(".")[-1] in _NETWORKS
    choices = _network_arguments() if is_network else arguments_of(import_class(class_path))
    where = ".".join(filter(None, [field, group, given]))
    owner = "Network" if is_network else class_path.rpartition(".")[2] or "it"
    return f"{where} is not an argument of {owner}{nearest(given, choices)}"


def _unknown_class(message: str, field: str, options: set[str]) -> str:
    found = next((found for pattern in _UNKNOWN_CLASS if (found := re.search(pattern, message))), None)
    choices = classes_of(field)
    if not found or not (choices or "base" in found.groupdict()):
        return ""
    given = found["given"] or _last(r"Given value: (.+)", message)
    if "is abstract" in found[0]:
        return f"{field}: {given} is abstract; choices: {', '.join(sorted(choices))}"
    base = found.groupdict().get("base")
    what = f"{given} is no {base}" if base else f"there is no class {given!r}"
    return f"{field}: {what}{nearest(given.split('.')[-1], choices)}"


def _missing(message: str, field: str, options: set[str]) -> str:
    found = re.search(r"the following arguments are required: (.+?)(?:\. Got value|$)", message, re.MULTILINE)
    if not found:
        return ""
    names = re.sub(r"\b(?:fit|validate|test|predict)\.", "", found[1].strip()).replace("--", "")
    return f"{'.'.join(filter(None, [field, names]))} is required and not given"


def _wrong_type(message: str, field: str, options: set[str]) -> str:
    found = re.findall(
        r"Expected an? (?!<class 'NoneType'>|dot import)(.+?)(?:\. Got value.*)?$", message, re.MULTILINE
    )
    kinds = [re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind) for kind in dict.fromkeys(found) if " but " not in kind]
    if not field or not kinds:
        return ""
    given = _last(r"Got value: (.+)", message) or _last(r"val='?([^')]+)'?\)", message)
    given = (given or _last(r"Given value: (.+)", message) or "nothing").split(". Got value: ")[0][:160]
    holder = rf"NestedArg\(key='[^']*', val=(.+)\)|Namespace\(.*\b{field.split('.')[-1]}='?([^',()]+).*"
    if inner := re.fullmatch(holder, given):  # what holds the value
        given = inner[1] or inner[2]
    names = [name for kind in kinds if "Literal[" in kind for name in re.findall(r"'([^']+)'", kind)]
    if names and re.search("[A-Za-z]", given) and given not in ("True", "False"):
        return f"{field}: there is no {given!r}{nearest(given, names)}"
    return f"{field}: {given} is not {' or '.join(kinds)}"


def _last(pattern: str, message: str) -> str:
    found = re.findall(pattern, message)
    return found[-1].strip() if found else ""


def import_class(class_path: str) -> type | None:
    """Return the class of an import path, None if there is none."""
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name, None) if module else None


def arguments_of(owner: type | None) -> set[str]:
    """Return the arguments of a class, and those of its bases where it passes **kwargs on."""
    bases = inspect.getmro(owner) if owner else ()
    names = {n for base in bases if "__init__" in vars(base) for n in inspect.signature(base.__init__).parameters}
    return names - {"self", "args", "kwargs"}


def _network_arguments() -> set[str]:
    return arguments_of(import_class("kd_lightning.models.Network"))


def classes_of(field: str) -> set[str]:
    """Return the names of the classes that a field takes."""
    bases = [import_class(path) for path in _BASES.get(field.split(".")[-1], ())]
    subs = {sub for base in bases for sub in _subclasses(base) if not inspect.isabstract(sub)}
    return {sub.__name__ for sub in subs if not sub.__name__.startswith("_")}


def _subclasses(base: type) -> Iterator[type]:
    for sub in base.__subclasses__():
        yield sub
        yield from _subclasses(sub)
