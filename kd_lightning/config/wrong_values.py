"""One-line messages about a value of a wrong type: the field, the given value, and what the field accepts."""

import re
from collections.abc import Set

from kd_lightning.config.classes import arguments_of
from kd_lightning.errors import nearest

_MOST = 160
"""Largest number of characters of a given value in a message."""
_NO_MAPPING = r"Unable to load config ['\"](?P<given>[^'\"]*)['\"]\s*-\s*Parser key \"[^\"]+\":\s*Unable to load config"
_CONVERSIONS = {
    r"invalid literal for int\(\) with base 10: '(.*)'": "int",
    r"could not convert string to float: '(.*)'": "float",
}
"""Messages of Python about a text that is not a number, and the type of the number."""


_PLAIN = {"Sequence": "a list", "Mapping": "a mapping"}
"""Names of abstract types, in words."""


def wrong_value(message: str, field: str, options: Set[str] = frozenset()) -> str:
    """Return the message about a value that a field does not accept; '' for all other messages.

    jsonargparse lists the types that it tried at each level of nested classes. Only the innermost level, which begins
    with the last `Parser key`, is about the value.

    Args:
        message: Message of jsonargparse (4.53).
        field: Name of the field.
        options: Names of the fields that the parser defines, which are not needed here.
    """
    if not field:
        return ""
    if found := re.search(_NO_MAPPING, message):
        given = found["given"][:_MOST]
        advice = f"give its fields, such as {field}.name" if "." in field else "omit the field to use its defaults"
        return f"{field}: {given} is neither a mapping of fields nor a file; {advice}"
    inner = innermost(message)
    for pattern, kind in _CONVERSIONS.items():
        if found := re.search(pattern, inner):
            return f"{field}: {found[1][:_MOST]!r} is not {kind}"
    if found := re.search(r"Importing '([\w.]+)' is not allowed", inner):
        return f"{field}: {found[1]} is not allowed, because a config may not name functions of this module"
    if (value := given_value(inner, field)).startswith("{'class_path'"):
        return f"{field}: {value} is neither a class nor a mapping with class_path and init_args"
    return _of_class(inner, field) or _of_type(inner, message, field) or _of_several(inner, field)


def given_value(text: str, field: str) -> str:
    """Return the value that the user gave, as a message of jsonargparse contains it; '' if there is none."""
    value = last(r"Got value: (.+)", text) or last(r"val='?([^')]+)'?\)", text) or last(r"Given value: (.+)", text)
    value = value.split(". Got value: ")[0][:_MOST]
    wrapper = rf"NestedArg\(key='[^']*', val=(.+)\)|Namespace\(.*\b{field.split('.')[-1]}='?([^',()]+).*"
    wrapped = re.fullmatch(wrapper, value)
    return (wrapped[1] or wrapped[2]) if wrapped else value


def last(pattern: str, message: str) -> str:
    """Return the last match of a pattern in a message, without spaces around it; '' if there is none."""
    matches = re.findall(pattern, message)
    return matches[-1].strip() if matches else ""


def innermost(message: str) -> str:
    """Return the lines below the last `Parser key` that has such lines, which are indented further."""
    lines = message.splitlines()
    keys = [number for number, line in enumerate(lines) if line.lstrip(" -").startswith('Parser key "')]
    for number in reversed(keys):
        depth = _indent(lines[number])
        end = next((n for n in range(number + 1, len(lines)) if lines[n].strip() and _indent(lines[n]) <= depth), None)
        if section := "\n".join(lines[number + 1 : end]).strip():
            return section
    return message


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _of_class(inner: str, field: str) -> str:
    """Return the message about a value that is neither a class or a function nor a mapping of its arguments."""
    subtypes = last(r"Subtypes: \[(.+)\]", inner)
    kinds = [kind for kind in re.findall(r"<class '([\w.]+)'>", subtypes) if kind != "NoneType"]
    given = given_value(inner, field)
    no_path = last(r"Expected a dot import path string: (.+)", inner)
    if "Callable" in subtypes and no_path:
        return f"{field}: {given!r} is not the import path of a function, such as package.module.function"
    if len(kinds) == 1 and kinds[0].startswith("kd_lightning.") and (no_path or "Not a valid subclass" in inner):
        name, arguments = kinds[0].rpartition(".")[2], ", ".join(sorted(arguments_of(kinds[0])))
        return f"{field}: {given or no_path} is not a mapping of the arguments of {name}; choices: {arguments}"
    if kinds and no_path and all("." in kind for kind in kinds):  # no built-in type is accepted as well
        return f"{field}: there is no class {no_path!r}"
    return ""


def _of_type(inner: str, message: str, field: str) -> str:
    kinds = re.findall(r"Expected an? (?!<class 'NoneType'>|dot import)(.+?)(?:\. Got value.*)?$", inner, re.MULTILINE)
    types = [re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind) for kind in dict.fromkeys(kinds) if " but " not in kind]
    if not types:
        return ""
    value = given_value(inner, field) or given_value(message, field) or "(empty)"
    choices = [choice for kind in types if "Literal[" in kind for choice in re.findall(r"'([^']+)'", kind)]
    if choices and re.search("[A-Za-z]", value) and value not in ("True", "False"):
        return f"{field}: {value!r} is not a valid value{nearest(value, choices)}"
    names = [_PLAIN.get(kind, re.sub(r"typing\.Literal\[(.+)\]", r"one of \1", kind)) for kind in types]
    return f"{field}: {value} is not {' or '.join(names)}"


def _of_several(inner: str, field: str) -> str:
    """Return the message about a value that is of none of several types, if jsonargparse names only the types."""
    subtypes, given = last(r"Subtypes: \[(.+)\]", inner), given_value(inner, field)
    names = [name for name in dict.fromkeys(re.findall(r"(?:\w+\.)*(\w+)(?='>|\[)", subtypes)) if name != "NoneType"]
    names = [_PLAIN.get(name, name) for name in names if name != "Union"]
    return f"{field}: {given} is not {' or '.join(names)}" if given and names else ""
