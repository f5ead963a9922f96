"""Reading and writing of the values of a config, so that each string that is written is read as the same string."""

import re
from typing import Any

import yaml
from jsonargparse import _typehints, get_loader

from kd_lightning.io.safe_yaml import load_yaml

_read = get_loader("yaml")
_NULL = ("", "~", "null", "Null", "NULL")
_BREAKS = re.compile("[\x85\u2028\u2029\ufeff]")
"""Characters that PyYAML writes literally, and reads as a space or not at all."""


def load(text: str) -> Any:
    """Return the content of a config or the value of an argument.

    YAML reads `#x`, `&x` and `---` as null. If one of them is the value of an argument, it is read as a string.

    Raises:
        yaml.YAMLError: for wrong syntax, and if `check_yaml` raises it.
    """
    content = load_yaml(text, load=_read)
    is_lost = content is None and "\n" not in text and text.strip() not in _NULL
    return text if is_lost else content


_GIVEN: dict[str, str] = {}
"""Values of arguments of nested classes as Python prints them (`None`), and as the user gave them (`null`)."""
_parse = _typehints.parse_value_or_config


def _remember(value: Any, *args: Any, **kwargs: Any) -> Any:
    parsed = _parse(value, *args, **kwargs)
    if isinstance(value, _typehints.NestedArg):
        _GIVEN[str(parsed[0].val)] = str(value.val)
    return parsed


_typehints.parse_value_or_config = _remember


def as_given(argument: str) -> str:
    """Return `--key=value` with the value that the user gave.

    jsonargparse 4.53 parses the value of a nested class's argument, and passes what Python prints of it on to the
    parser of that class: `None` for `null`, `7` for `007`, and `12000.0` for `12e3`.
    """
    key, sign, value = argument.partition("=")
    return f"{key}{sign}{_GIVEN.get(value, value)}"


def dump(content: Any) -> str:
    """Return a config as YAML. Strings that would be read as other values (`12e3`, `yes`) are quoted."""
    return yaml.dump(content, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper, which quotes the strings that jsonargparse's loader would read as other values."""

    def ignore_aliases(self, data: Any) -> bool:
        return super().ignore_aliases(data) or isinstance(data, str)


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _BREAKS.search(text) else None if _is_plain(text) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _is_plain(text: str) -> bool:
    try:
        return load_yaml(text, load=_read) == text
    except yaml.YAMLError:
        return False


_Dumper.add_representer(str, _represent)
