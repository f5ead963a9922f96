"""What is wrong in a config or on the command line, in one line with the nearest choices."""

import re

from kd_lightning.config.classes import arguments_of, classes_of
from kd_lightning.config.sub_configs import sub_config_error
from kd_lightning.errors import ConfigError, nearest

_NETWORKS, _NETWORK = ("teacher", "student"), "kd_lightning.models.Network"
_UNKNOWN_CLASS = (
    r"Import path (?:(?P<given>\S+) )?does not correspond to a subclass of (?P<base>\w+)",
    r"Expected '(?P<given>[\w.]+)' to be a (?:subclass of|function that returns) .*?(?P<base>\w+)[\]'>]",
    r"(?:Expected a dot import path string|Unexpected import path format): (?P<given>\S+)",
    r"module '[\w.]+' has no attribute '(?P<given>\w+)'",
    r"but (?P<given>\w+) is abstract",
    r"Problem with given class_path '(?P<given>[^']+)'[\s\S]*No module named",
)
_BUILT_LATER = r"expects a function or a callable class: [\s\S]*?Got value: Namespace\(class_path='([\w.]+)'"
"""A class that a field keeps with its arguments: an optimizer, a part of `Combined`."""


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
    keys = dict.fromkeys(re.findall(r'(?:Parser key "|^--(?=\S+\.help:))([\w.]+?)(?:"|\.help:)', message))
    field = ".".join(key for key in keys if not any(other.startswith(f"{key}.") for other in keys))
    if part := _last(_BUILT_LATER, message).rpartition(".")[2]:
        field = re.sub(r"\bparts\b", f"parts: {part}", field, count=1)
    for kind in (sub_config_error, _unknown_field, _unknown_class, _missing, _wrong_type):
        if line := kind(message, field, options):
            return line
    message = re.sub(r'Parser key "[^"]+":\s*', "", message)
    return f"{field}: {message}" if field and not message.startswith(field) else message


def _unknown_field(message: str, field: str, options: set[str]) -> str:
    groups = {option.split(".")[0] for option in options}
    found = re.search(r"(?:unrecognized arguments: --|^Subcommand .+ does not accept option ')([^\s=']+)", message)
    if found:
        given = found[1]
        first, last = given.split(".")[0], given.split(".")[-1]
        if first in _NETWORKS:  # jsonargparse cuts the model's name off
            return f"model.{given} is not an argument of Network{nearest(last, arguments_of(_NETWORK))}"
        if inner := {option for option in options if option.startswith(f"{first}.")}:
            return f"{given} is not a field{nearest(given, inner)}"
        return f"{first} is not a field{nearest(first, groups)}"
    if found := re.search(r"unrecognized arguments: (.+)", message):
        return f"{found[1]} is given without a name; choices: {', '.join(f'--{group}' for group in sorted(groups))}"
    found = re.search(r"(?:Group '([\w.]+)' does not accept option|Option) '([^']+)'(?: is not accepted)?", message)
    if not found:
        return ""
    group, given = found[1], found[2]
    class_path = _last(_BUILT_LATER, message) or _last(r"Problem with given class_path '([^']+)'", message)
    is_network = bool(group) and group.split(".")[-1] in _NETWORKS
    choices = arguments_of(_NETWORK) if is_network else arguments_of(class_path)
    where = ".".join(filter(None, [field, group, given]))
    if "parts: " in field:
        if (argument := given.split(".")[0]) in (shared := arguments_of("kd_lightning.distillation.Combined")):
            return f"{field}.{argument}: the parts share the combination's; give model.{argument}"
        choices -= shared
    owner = "Network" if is_network else class_path.rpartition(".")[2] or "it"
    return f"{where} is not an argument of {owner}{nearest(given, choices)}"


def _unknown_class(message: str, field: str, options: set[str]) -> str:
    choices = classes_of(field)
    if found := re.search(r"(?:spec|init_args), but got (.+?)(?:\. Got value|$)", message, re.MULTILINE):
        return f"{field}: {found[1]} is neither a class nor a table of class_path and init_args{nearest('', choices)}"
    found = next((found for pattern in _UNKNOWN_CLASS if (found := re.search(pattern, message))), None)
    if not found or not (choices or "base" in found.groupdict()):
        return ""
    given = found["given"] or _last(r"Given value: (.+)", message)
    if "is abstract" in found[0]:
        return f"{field}: {given} is abstract; choices: {', '.join(sorted(choices))}"
    base = found.groupdict().get("base")
    if not base and field.endswith("parts") and given in classes_of("model"):
        base = "Distiller"
    what = f"{given} is no {base}" if base else f"there is no class {given!r}"
    return f"{field}: {what}{nearest(given.split('.')[-1], choices)}"


def _missing(message: str, field: str, options: set[str]) -> str:
    found = re.search(r"the following arguments are required: (.+?)(?:\. Got value|$)", message, re.MULTILINE)
    if not found:
        return ""
    if field.endswith("parts: Combined"):
        return f"{field} cannot be a part; give its parts instead"
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
