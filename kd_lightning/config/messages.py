"""One-line error messages for a wrong config or command line, with the nearest choices."""

import re

from kd_lightning.config.classes import arguments_of, classes_of
from kd_lightning.config.lightning_classes import needs_package, refusal
from kd_lightning.config.own_classes import own_class_error
from kd_lightning.config.sub_configs import sub_config_error
from kd_lightning.errors import ConfigError, nearest

_NETWORKS, _NETWORK = ("teacher", "student"), "kd_lightning.models.Network"
_UNKNOWN_CLASS = (
    r"Import path (?:(?P<name>\S+) )?does not correspond to a subclass of (?P<base>\w+)",
    r"Expected '(?P<name>[\w.]+)' to be a (?:subclass of|function that returns) .*?(?P<base>\w+)[\]'>]",
    r"(?:Expected a dot import path string|Unexpected import path format): (?P<name>\S+)",
    r"module '[\w.]+' has no attribute '(?P<name>\w+)'",
    r"but (?P<name>\w+) is abstract",
    r"Problem with given class_path '(?P<name>[^']+)'[\s\S]*No module named",
)
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
    keys = dict.fromkeys(re.findall(r'(?:Parser key "|^--(?=\S+\.help:))([\w.]+?)(?:"|\.help:)', message))
    field = ".".join(key for key in keys if not any(other.startswith(f"{key}.") for other in keys))
    if part := _last(_BUILT_LATER, message).rpartition(".")[2]:
        field = re.sub(r"\bparts\b", f"parts: {part}", field, count=1)
    for rewrite in (
        sub_config_error,
        own_class_error,
        _refused_class,
        _missing_package,
        _schedule,
        _unknown_field,
        _unknown_class,
        _missing,
        _wrong_type,
    ):
        if line := rewrite(message, field, options):
            return line
    message = re.sub(r'Parser key "[^"]+":\s*', "", message)
    return f"{field}: {message}" if field and not message.startswith(field) else message


def _refused_class(message: str, field: str, options: set[str]) -> str:
    names = re.findall(r"(?:Given value: |Expected a dot import path string: )([\w.]+)$", message, re.MULTILINE)
    return next((line for name in names if (line := refusal(field, name.rpartition(".")[2]))), "")


def _missing_package(message: str, field: str, options: set[str]) -> str:
    found = re.search(r"Problem with given class_path '([\w.]+)'[\s\S]*?No module named '([\w.]+)'", message)
    if not found or f"{found[1]}.".startswith(f"{found[2]}."):  # the second case is a module of the class itself
        return ""
    return f"{field}: {needs_package(found[1].rpartition('.')[2], found[2].partition('.')[0])}"


def _schedule(message: str, field: str, options: set[str]) -> str:
    """Return the message about a schedule of timm, or about the name of several classes (two ReduceLROnPlateau)."""
    if match := re.search(
        r"Multiple subclasses with name (\S+?)\. Give the full class path[^:]*: ([\w., ]+\w)", message
    ):
        hint = "; only that of lightning.pytorch.cli works" if match[1] == "ReduceLROnPlateau" else ""
        return f"{field}: {match[1]} is the name of {match[2].replace(', ', ' and ')}; give the complete name{hint}"
    if field.endswith("lr_scheduler") and (match := re.search(r"'(timm\.[\w.]+)' to be a", message)):
        return (
            f"{field}: {match[1]} is no schedule of torch, and Lightning cannot update it; choose WarmupCosine, "
            "WarmupMultiStep or a class of torch.optim.lr_scheduler"
        )
    return ""


def _unknown_field(message: str, field: str, options: set[str]) -> str:
    groups = {option.split(".")[0] for option in options}
    match = re.search(r"(?:unrecognized arguments: --|^Subcommand .+ does not accept option ')([^\s=']+)", message)
    if match:
        name = match[1]
        first, last = name.split(".")[0], name.split(".")[-1]
        if first in _NETWORKS:  # jsonargparse removes the prefix `model.`
            return f"model.{name} is not an argument of Network{nearest(last, arguments_of(_NETWORK))}"
        if in_group := {option for option in options if option.startswith(f"{first}.")}:
            return f"{name} is not a field{nearest(name, in_group)}"
        return f"{first} is not a field{nearest(first, groups)}"
    if match := re.search(r"unrecognized arguments: (.+)", message):
        names = ", ".join(f"--{group}" for group in sorted(groups))
        return f"{match[1]} is given without the name of a field; choices: {names}"
    match = re.search(r"(?:Group '([\w.]+)' does not accept option|Option) '([^']+)'(?: is not accepted)?", message)
    if not match:
        return ""
    group, name = match[1], match[2]
    class_path = _last(_BUILT_LATER, message) or _last(r"Problem with given class_path '([^']+)'", message)
    is_network = bool(group) and group.split(".")[-1] in _NETWORKS
    choices = arguments_of(_NETWORK) if is_network else arguments_of(class_path)
    full_name = ".".join(filter(None, [field, group, name]))
    if "parts: " in field:
        if (argument := name.split(".")[0]) in (shared := arguments_of("kd_lightning.distillation.Combined")):
            return f"{field}.{argument}: all parts share this argument; set model.{argument} instead"
        choices -= shared
    if name in choices:
        return f"{full_name}: this value is not valid; correct it, or omit the field to use the default"
    owner = "Network" if is_network else class_path.rpartition(".")[2] or "the class"
    return f"{full_name} is not an argument of {owner}{nearest(name, choices)}"


def _unknown_class(message: str, field: str, options: set[str]) -> str:
    choices = classes_of(field)
    if match := re.search(r"(?:spec|init_args), but got (.+?)(?:\. Got value|$)", message, re.MULTILINE):
        return f"{field}: {match[1]} is neither a class nor a mapping of class_path and init_args{nearest('', choices)}"
    match = next((match for pattern in _UNKNOWN_CLASS if (match := re.search(pattern, message))), None)
    if not match or not (choices or "base" in match.groupdict()):
        return ""
    name = match["name"] or _last(r"Given value: (.+)", message)
    if "is abstract" in match[0]:
        return f"{field}: {name} is abstract; choices: {', '.join(sorted(choices))}"
    base = match.groupdict().get("base")
    if not base and field.endswith("parts") and name in classes_of("model"):
        base = "Distiller"
    if base == "ReduceLROnPlateau":  # the last of the types that a schedule may have
        base = "LRScheduler"
    problem = f"{name} is not a subclass of {base}" if base else f"there is no class {name!r}"
    return f"{field}: {problem}{nearest(name.split('.')[-1], choices)}"


def _missing(message: str, field: str, options: set[str]) -> str:
    match = re.search(r"the following arguments are required: (.+?)(?:\. Got value|$)", message, re.MULTILINE)
    if not match:
        return ""
    if field.endswith("parts: Combined"):
        return f"{field} cannot be a part; give its parts instead"
    names = re.sub(r"\b(?:fit|validate|test|predict)\.", "", match[1].strip()).replace("--", "")
    return f"{'.'.join(filter(None, [field, names]))} is required and not given"


def _wrong_type(message: str, field: str, options: set[str]) -> str:
    kinds = re.findall(
        r"Expected an? (?!<class 'NoneType'>|dot import)(.+?)(?:\. Got value.*)?$", message, re.MULTILINE
    )
    types = [re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind) for kind in dict.fromkeys(kinds) if " but " not in kind]
    if not field or not types:
        return ""
    value = _last(r"Got value: (.+)", message) or _last(r"val='?([^')]+)'?\)", message)
    value = (value or _last(r"Given value: (.+)", message) or "(empty)").split(". Got value: ")[0][:160]
    wrapper = rf"NestedArg\(key='[^']*', val=(.+)\)|Namespace\(.*\b{field.split('.')[-1]}='?([^',()]+).*"
    if wrapped := re.fullmatch(wrapper, value):
        value = wrapped[1] or wrapped[2]
    choices = [choice for kind in types if "Literal[" in kind for choice in re.findall(r"'([^']+)'", kind)]
    if choices and re.search("[A-Za-z]", value) and value not in ("True", "False"):
        return f"{field}: {value!r} is not a valid value{nearest(value, choices)}"
    return f"{field}: {value} is not {' or '.join(types)}"


def _last(pattern: str, message: str) -> str:
    matches = re.findall(pattern, message)
    return matches[-1].strip() if matches else ""
