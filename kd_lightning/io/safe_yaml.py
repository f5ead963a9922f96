"""Checks of YAML before anything is built from it: limited size and depth, no duplicate keys, no objects."""

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from kd_lightning.errors import one_line

MOST_CHARACTERS, MOST_VALUES, DEEPEST = 1_000_000, 20_000, 50
_TOO_DEEP = f"mappings and lists are nested more than {DEEPEST} levels deep"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_yaml(text: str) -> None:
    """Raise an error for YAML that is too large or too deep, contains itself, repeats a key, or asks for an object.

    A reference such as `*a` counts as all values of `&a`. The check only reads the events of PyYAML's parser. PyYAML
    therefore builds no objects, and the limits of this module are reached before those of PyYAML.

    Raises:
        yaml.YAMLError: for such YAML, with a message of one line, and for wrong syntax, with the message of PyYAML.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"more than {MOST_CHARACTERS:,} characters")
    document = _Document()
    try:
        for event in yaml.parse(text, Loader=_Loader):
            document.read(event)
    except yaml.MarkedYAMLError:
        # PyYAML's scanner is up to 1,024 characters ahead of the events. Since PyYAML 6.0.4, the scanner has its own
        # limit of depth and may fail first. Therefore read the text again, but only up to the place where it may be
        # too deep.
        with contextlib.suppress(yaml.MarkedYAMLError):
            document = _Document()
            for event in yaml.parse(text[: _deep_place(text)], Loader=_Loader):
                document.read(event)
        raise


def load_yaml(text: str, load: Callable[[str], Any] | None = None) -> Any:
    """Check YAML with `check_yaml`, and return its content.

    Args:
        text: YAML.
        load: function that reads the YAML. Default: PyYAML's safe loader.

    Raises:
        yaml.YAMLError: if `check_yaml` raises it, or if a value does not fit its tag.
    """
    check_yaml(text)
    try:
        return load(text) if load else yaml.load(text, Loader=_Loader)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # `!!float ""`, `0x_`
        raise yaml.YAMLError(f"a value does not fit its type ({type(error).__name__}: {one_line(error)})") from error


@dataclass
class _Open:
    """A table or list whose end has not been read yet."""

    start: yaml.CollectionStartEvent
    values_before: int
    children: int = 0
    levels: int = 1
    """Number of nested levels, including the level of this mapping or list itself."""
    keys: set[str] = field(default_factory=set)


class _Document:
    """Facts about the part of a document that has been read: size, anchors, and open mappings and lists."""

    def __init__(self) -> None:
        self.values, self.started = 0, False
        self.open: list[_Open] = []
        self.sizes: dict[str, tuple[int, int]] = {}  # by anchor: number of values, number of nested levels
        self.texts: dict[str, str] = {}  # by anchor

    def read(self, event: yaml.Event) -> None:
        levels = 0
        if isinstance(event, yaml.DocumentStartEvent):
            if self.started:
                raise yaml.YAMLError(f"line {_line(event)}: a second document begins; give only one document")
            self.started = True
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = self.open.pop()
            levels = closed.levels
            self.sizes[closed.start.anchor] = self.values - closed.values_before, levels
        elif isinstance(event, yaml.NodeEvent):
            self._check_key(event)
            values, levels = self._size(event)
            if isinstance(event, yaml.CollectionStartEvent):
                self.open.append(_Open(event, self.values))
            self.values += values
        if self.values > MOST_VALUES:
            raise yaml.YAMLError(f"more than {MOST_VALUES:,} values")
        if len(self.open) + levels > DEEPEST:
            raise yaml.YAMLError(_TOO_DEEP)
        if self.open:
            self.open[-1].levels = max(self.open[-1].levels, levels + 1)

    def _size(self, event: yaml.NodeEvent) -> tuple[int, int]:
        """Return how many values and levels an event adds. Each value inside a mapping or list has its own event."""
        if not isinstance(event, yaml.AliasEvent):
            if event.tag not in (None, "!", *_Loader.yaml_constructors):
                tag = event.tag.replace("tag:yaml.org,2002:", "!!")
                raise yaml.YAMLError(f"line {_line(event)}: {tag} asks for an object; give a plain value")
            if isinstance(event, yaml.ScalarEvent):
                self.sizes[event.anchor], self.texts[event.anchor] = (1, 0), event.value
            return 1, 0
        if any(node.start.anchor == event.anchor for node in self.open):
            raise yaml.YAMLError(f"line {_line(event)}: the value &{event.anchor} contains itself")
        if event.anchor not in self.sizes:
            raise yaml.YAMLError(f"line {_line(event)}: there is no &{event.anchor} before *{event.anchor}")
        return self.sizes[event.anchor]

    def _check_key(self, event: yaml.NodeEvent) -> None:
        if not self.open:
            return
        parent = self.open[-1]
        parent.children += 1
        is_key = isinstance(parent.start, yaml.MappingStartEvent) and parent.children % 2 == 1
        key = self.texts.get(event.anchor) if isinstance(event, yaml.AliasEvent) else getattr(event, "value", None)
        if not is_key or key in (None, "<<"):
            return
        if key in parent.keys:
            raise yaml.YAMLError(f"{key!r} is given twice in the table that begins in line {_line(parent.start)}")
        parent.keys.add(key)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1


def _deep_place(text: str) -> int:
    """Return the first position at which brackets, or dashes on one line, may be nested too deep.

    If there is no such position, return the length of the text.
    """
    brackets = dashes = 0
    for sign in re.finditer(r"[\[\]{}\n]|[-?](?=\s)", text):
        dashes = 0 if sign[0] == "\n" else dashes + (sign[0] in "-?")
        brackets += (sign[0] in "[{") - (sign[0] in "]}")
        if brackets + dashes > DEEPEST:
            return sign.end()
    return len(text)
