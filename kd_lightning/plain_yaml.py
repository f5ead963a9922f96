"""YAML of a sane size that gives each key once, checked before any object is built from it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

MOST_CHARACTERS, MOST_VALUES, DEEPEST = 1_000_000, 20_000, 50
_TOO_DEEP = f"tables and lists are nested more than {DEEPEST} deep"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class _Open:
    """A table or list whose end has not been read yet."""

    anchor: str | None
    line: int
    is_table: bool
    values_before: int
    """Values of the document that were read before it."""
    children: int = 0
    height: int = 1
    """Levels of nesting from here downwards, its own included."""
    keys: set[str] = field(default_factory=set)


def check_yaml(text: str) -> None:
    """Raise an error for YAML that is huge, deep, recursive, or gives a key twice.

    Sizes count what references repeat (`&a [*b, *b]`). They are decided on the parser's events, so that PyYAML neither
    builds anything nor meets a limit of its own first.

    Raises:
        yaml.YAMLError: on one line for the above; PyYAML's own message for wrong syntax.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"more than {MOST_CHARACTERS:,} characters")
    try:
        _check_events(yaml.parse(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        # The scanner reads up to 1,024 characters ahead of the events, and PyYAML >= 6.0.4 limits its depth.
        if error.problem_mark and _nesting(text, error.problem_mark.index) > DEEPEST:
            raise yaml.YAMLError(_TOO_DEEP) from error
        raise


def load_yaml(text: str) -> Any:
    """Return the content of YAML that passes `check_yaml`; tags build no objects.

    Raises:
        yaml.YAMLError: for wrong syntax, and for what `check_yaml` raises an error for.
    """
    check_yaml(text)
    return yaml.load(text, Loader=_Loader)


def _check_events(events: Iterable[yaml.Event]) -> None:
    values, documents = 0, 0
    open_nodes: list[_Open] = []
    sizes: dict[str, tuple[int, int]] = {}  # of each anchor: values, levels of nesting
    for event in events:
        height = 0
        if isinstance(event, yaml.CollectionEndEvent):
            closed = open_nodes.pop()
            height = closed.height
            sizes[closed.anchor or ""] = values - closed.values_before, height
        elif isinstance(event, yaml.NodeEvent):
            if open_nodes:
                _check_key(open_nodes[-1], event)
            if isinstance(event, yaml.AliasEvent):
                if any(node.anchor == event.anchor for node in open_nodes):
                    raise yaml.YAMLError(f"the value &{event.anchor} contains itself")
                repeated, height = sizes.get(event.anchor, (1, 0))  # PyYAML reports an unknown one
                values += repeated
            else:
                values += 1
            if isinstance(event, yaml.CollectionStartEvent):
                is_table = isinstance(event, yaml.MappingStartEvent)
                open_nodes.append(_Open(event.anchor, event.start_mark.line + 1, is_table, values - 1))
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        if values > MOST_VALUES:
            raise yaml.YAMLError(f"more than {MOST_VALUES:,} values")
        if len(open_nodes) + height > DEEPEST:
            raise yaml.YAMLError(_TOO_DEEP)
        if documents > 1:
            raise yaml.YAMLError("more than one document: remove what follows the second `---`")
        if open_nodes:
            open_nodes[-1].height = max(open_nodes[-1].height, height + 1)


def _check_key(table: _Open, event: yaml.NodeEvent) -> None:
    """Count a child of a table or list; raise an error for a key that the table has already."""
    table.children += 1
    if not table.is_table or table.children % 2 == 0 or not isinstance(event, yaml.ScalarEvent) or event.value == "<<":
        return
    if event.value in table.keys:
        raise yaml.YAMLError(f"{event.value!r} is given twice in the table that begins in line {table.line}")
    table.keys.add(event.value)


def _nesting(text: str, end: int) -> int:
    """Return how deep brackets, or dashes on one line, are nested before a place where PyYAML stopped reading."""
    bare = re.sub(r"\"[^\"]*\"|'[^']*'|#[^\n]*", "", text[:end])  # without quoted texts and comments
    brackets = sum(map(bare.count, "[{")) - sum(map(bare.count, "]}"))
    dashes = re.match(r"[-?: ]*", bare[bare.rfind("\n") + 1 :])[0]
    return max(brackets, len(dashes.replace(" ", "")))
