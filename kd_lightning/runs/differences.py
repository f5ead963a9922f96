"""Find the settings that differ between the configs of two runs."""

from collections.abc import Iterable
from typing import Any


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Return a flat dict of nested values. The key of each value is its dotted name (`trainer.max_epochs`).

    For a list of mappings with `class_path`, the value is the list of the class names. The settings of each class have
    names that begin with `<list>.<class>.`.
    """
    values: dict[str, Any] = {}
    if isinstance(content, list) and any(isinstance(item, dict) for item in content):
        content = _by_name(content)
        values[prefix] = [*content]
    if not isinstance(content, dict) or not content:
        return {prefix: content}
    for key, value in content.items():
        values |= flat(value, f"{prefix}.{key}".lstrip("."))
    return values


def _by_name(items: list[Any]) -> dict[str, Any]:
    """Return the items of a list by the names of their classes. A repeated name ends with the index of its item."""
    named: dict[str, Any] = {}
    for index, item in enumerate(items):
        path = item.get("class_path") if isinstance(item, dict) else item
        name = str(path or index).rpartition(".")[2]
        named[f"{name}-{index}" if name in named else name] = item
    return named


def differences(before: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ between two configs, as a dict from dotted names to (before, now)."""
    old, new = flat(before), flat(now)
    names = sorted({*old, *new})
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def in_words(changed: dict[str, tuple[Any, Any]], most: int = 3) -> str:
    """Return a text with the first `most` settings from `differences` and the number of the remaining settings."""
    values = [f"{name} was {before}, is now {now}" for name, (before, now) in [*changed.items()][:most]]
    more = f" and {len(changed) - most} more" if len(changed) > most else ""
    return f"{'; '.join(values)}{more}"


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return a short form of each dotted name: its last part, or as many of its last parts as make it unique.

    For example, `model.optimizer.lr` becomes `lr`. `init_args` is not a part of a name.
    """
    parts = {name: [part for part in name.split(".") if part != "init_args"] for name in names}
    short = {}
    for name, own in parts.items():
        others = [other for key, other in parts.items() if key != name]
        counts = range(1, len(own) + 1)
        count = next((n for n in counts if all(other[-n:] != own[-n:] for other in others)), len(own))
        short[name] = ".".join(own[-count:])
    return short
