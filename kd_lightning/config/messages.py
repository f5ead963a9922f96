"""One-line error messages for a wrong config or command line, with the nearest choices."""

import re
from pathlib import Path

from kd_lightning.config.classes import classes_of, paths_of
from kd_lightning.config.lightning_classes import needs_package, refusal
from kd_lightning.config.own_classes import own_class_error
from kd_lightning.config.sub_configs import sub_config_error
from kd_lightning.config.unknown_fields import unknown_field
from kd_lightning.config.wrong_values import given_value, innermost, last, wrong_value
from kd_lightning.errors import ConfigError, nearest
from kd_lightning.words import listed

_UNKNOWN_CLASS = (
    r"Import path (?:(?P<name>\S+) )?does not correspond to a subclass of (?P<base>\w+)",
    r"Expected '(?P<name>[\w.]+)' to be a (?:subclass of|function that returns) .*?(?P<base>\w+)[\]'>]",
    r"(?:Expected a dot import path string|Unexpected import path format): (?P<name>\S+)",
    r"module '[\w.]+' has no attribute '(?P<name>\w+)'",
    r"but (?P<name>\w+) is abstract",
    r"Problem with given class_path '(?P<name>[^']+)'[\s\S]*No module named",
)
_PLATEAU = "ReduceLROnPlateau"
_USELESS = f"torch.optim.lr_scheduler.{_PLATEAU}"
"""The class of torch with the name of a class of Lightning; it cannot read a logged value."""
_MOST = 80
"""Largest number of characters of a given config in a message."""
_ANY_CALLBACK = r"(?m)^( *)- Problem with given class_path 'lightning\.Callback':\n(?:\1 +.*\n)*"
"""Pattern of messages about an argument of the base class of callbacks. Those about the given class precede them."""
_BUILT_LATER = r"expects a function or a callable class: [\s\S]*?Got value: Namespace\(class_path='([\w.]+)'"
"""Pattern of messages about an optimizer or a part of `Combined`, which are built after all other objects."""


def config_error(error: BaseException | None) -> ConfigError | None:
    """Return the first ConfigError in a chain of exceptions, or None if there is none.

    If a constructor raises an error, jsonargparse raises another error, whose cause or context is the first one.
    """
    while error is not None and not isinstance(error, ConfigError):
        error = error.__cause__ or error.__context__
    return error


def explain(message: str, options: set[str] = frozenset()) -> str:
    """Return a message of jsonargparse (4.53) in words that a user understands.

    Messages about unknown fields, unknown classes, wrong types, missing values and sub-configs are replaced. The new
    message contains the field, the given value and the nearest choices. All other messages only get the name of their
    field as a prefix.

    Args:
        message: Message of jsonargparse.
        options: Names of the fields that the parser defines (`trainer.max_epochs`, `run.name`, ...).
    """
    if message.count("Problem with given class_path") > 1:
        message = re.sub(_ANY_CALLBACK, "", message)
    keys = dict.fromkeys(re.findall(r'(?:Parser key "|^--(?=\S+\.help:))([\w.]+?)(?:"|\.help:)', message))
    field = ".".join(key for key in keys if not any(other.startswith(f"{key}.") for other in keys))
    if part := last(_BUILT_LATER, message).rpartition(".")[2]:
        field = re.sub(r"\bparts\b", f"parts: {part}", field, count=1)
    for rewrite in (
        _no_command,
        _no_config,
        sub_config_error,
        own_class_error,
        _refused_class,
        _missing_package,
        _schedule,
        _unknown_field,
        _unknown_class,
        _missing,
        wrong_value,
    ):
        if line := rewrite(message, field, options):
            return line
    message = re.sub(r'Parser key "[^"]+":\s*', "", message)
    return f"{field}: {message}" if field and not message.startswith(field) else message


def _no_command(message: str, field: str, options: set[str]) -> str:
    found = re.search(r'expected "subcommand" to be one of \{([\w,-]+)\}, but it was not provided', message)
    names = found[1].replace(",", ", ") if found else ""
    return f"no command is given; begin with one of {names}, for example: fit --config FILE" if names else ""


def _no_config(message: str, field: str, options: set[str]) -> str:
    """Return the message about a config, as a file or a value, that is missing, empty, a number, a text or a list."""
    missing = re.search(r"File does not exist: '([^'\n]+)'", message)
    if missing and (field == "config" or "--config" in message):
        path = Path(missing[1])
        near = sorted(other.name for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        return f"config: there is no file {path}{nearest(path.name, near)}"
    found = re.search(r"Unexpected config: ([\s\S]*)", message)
    if not found:
        return ""
    given = " ".join(found[1].split())[:_MOST] or "''"
    return (
        f"config: {given} is not a mapping of fields; give the path of a config, for example --config "
        "configs/quickstart.yaml, or omit --config"
    )


def _refused_class(message: str, field: str, options: set[str]) -> str:
    names = re.findall(r"(?:Given value: |Expected a dot import path string: )([\w.]+)$", message, re.MULTILINE)
    return next((line for name in names if (line := refusal(field, name.rpartition(".")[2]))), "")


def _missing_package(message: str, field: str, options: set[str]) -> str:
    found = re.search(r"Problem with given class_path '([\w.]+)'[\s\S]*?No module named '([\w.]+)'", message)
    if not found or f"{found[1]}.".startswith(f"{found[2]}."):  # the second case is a module of the class itself
        return ""
    return f"{field}: {needs_package(found[1].rpartition('.')[2], found[2].partition('.')[0])}"


def _schedule(message: str, field: str, options: set[str]) -> str:
    """Return the message about a schedule of timm, or about a name that several classes have (ReduceLROnPlateau)."""
    if match := re.search(
        r"Multiple subclasses with name (\S+?)\. Give the full class path[^:]*: ([\w., ]+\w)", message
    ):
        classes = match[2].split(", ")
        plateau = [name for name in classes if name == "lightning.pytorch.cli.ReduceLROnPlateau"]
        choice = f"choose {plateau[0]}" if plateau else "give the full name of one of them"
        return f"{field}: {len(classes)} classes are called {match[1]} ({listed(classes)}); {choice}"
    if field.endswith("lr_scheduler") and (match := re.search(r"'(timm\.[\w.]+)' to be a", message)):
        return (
            f"{field}: {match[1]} is not a torch schedule, and Lightning cannot update it; choose WarmupCosine, "
            "WarmupMultiStep or a class of torch.optim.lr_scheduler"
        )
    return ""


def _unknown_field(message: str, field: str, options: set[str]) -> str:
    class_path = last(_BUILT_LATER, message) or last(r"Problem with given class_path '([^']+)'", message)
    return unknown_field(message, field, options, class_path)


def _unknown_class(message: str, field: str, options: set[str]) -> str:
    choices = classes_of(field)
    if given := _no_class(message, field, choices):
        problem = "is neither a class nor a mapping with class_path and init_args"
        return f"{field}: {given[:160]} {problem}{nearest('', choices)}"
    match = next((match for pattern in _UNKNOWN_CLASS if (match := re.search(pattern, message))), None)
    if not match or not (choices or "base" in match.groupdict()):
        return ""
    name = match["name"] or last(r"Given value: (.+)", message)
    if "is abstract" in match[0]:
        return f"{field}: {name} is abstract; choices: {', '.join(sorted(choices))}"
    base = match.groupdict().get("base")
    if not base and field.endswith("parts") and name in classes_of("model"):
        base = "Distiller"
    if base == _PLATEAU:  # the last of the types that a schedule may have
        base = "LRScheduler"
    problem = f"{name} is not a subclass of {base}" if base else f"there is no class {name!r}"
    short = name.split(".")[-1]
    paths = [path for path in paths_of(field, short) if path != _USELESS]
    if paths and not base:  # the class is in another module than the one that was given
        return f"{field}: {problem} in this module; give the complete name {' or '.join(paths)}"
    hint = re.sub(rf"\b{_PLATEAU}\b", f"lightning.pytorch.cli.{_PLATEAU}", nearest(short, choices))
    if field == "model" and not hint:
        hint = "; choose from the names that `python -m kd_lightning list` prints"
    return f"{field}: {problem}{hint}"


def _no_class(message: str, field: str, choices: set[str]) -> str:
    """Return the value that was given for a class, if it is a number, a list or an incomplete mapping; otherwise ''."""
    if match := re.search(r"(?:spec|init_args), but got (.+?)(?:\. Got value|$)", message, re.MULTILINE):
        return match[1]
    inner = innermost(message)
    is_none = r"- Not a valid subclass of \w+$|^[ -]*argument of type '\w+' is not iterable"
    if not choices or "Problem with given class_path" in inner or not re.search(is_none, inner, re.MULTILINE):
        return ""
    return given_value(message, field)


def _missing(message: str, field: str, options: set[str]) -> str:
    match = re.search(r"the following arguments are required: (.+?)(?:\. Got value|$)", message, re.MULTILINE)
    if not match:
        return ""
    if field.endswith("parts: Combined"):
        return f"{field} cannot be a part; give its parts instead"
    names = re.sub(r"\b(?:fit|validate|test|predict)\.", "", match[1].strip()).replace("--", "")
    problem = f"{'.'.join(filter(None, [field, names]))} {'are' if ',' in names else 'is'} required, but not given"
    if field or not {"config", "model", "data"} <= options:
        return problem
    if re.search(r"\b(?:validate|test|predict)\.", match[1]):
        command = re.search(r"\b(validate|test|predict)\.", match[1])[1]
        return f"{problem}; give the folder of a run, as in `{command} RUN`"
    return (
        f"{problem}; give a config (--config configs/quickstart.yaml), or choose from the names that "
        "`python -m kd_lightning list` prints (--model NAME --data NAME)"
    )
