"""YAML of a sane size that says each thing once, checked before anything is made of it."""

from collections import Counter
from typing import Any

import yaml

MOST_CHARACTERS, MOST_VALUES, DEEPEST = 1_000_000, 20_000, 50
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_yaml(text: str) -> None:
    """Refuses YAML that is huge, also where few bytes refer to one another (`&a [*a, *a]`), or has a key twice.

    Raises:
        yaml.YAMLError: in one line.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"more than {MOST_CHARACTERS:,} characters")
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):  # not recursive, as what comes after it is
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise yaml.YAMLError(f"tables and lists more than {DEEPEST} deep")
    waiting, seen = [(yaml.compose(text, Loader=_Loader), 0)], 0
    while waiting:
        node, depth = waiting.pop()
        seen += 1
        if seen > MOST_VALUES or depth > DEEPEST:
            raise yaml.YAMLError(f"more than {MOST_VALUES:,} values, or one that holds itself")
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            if twice := next((name for name, count in Counter(names).items() if count > 1), None):
                line = node.start_mark.line + 1
                raise yaml.YAMLError(f"{twice!r} stands there twice, in the table that begins in line {line}")
            waiting += [(item, depth + 1) for pair in node.value for item in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(item, depth + 1) for item in node.value]


def load_yaml(text: str) -> Any:
    """The content of YAML that `check_yaml` lets pass; no tag makes an object of it.

    Raises:
        yaml.YAMLError: for YAML that is wrong or refused.
    """
    check_yaml(text)
    return yaml.load(text, Loader=_Loader)
