"""The settings in which the configs of two runs differ."""

from typing import Any


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested values by their dotted names.

    A list of mappings with `class_path` becomes the list of the classes' names. The arguments of each class follow
    under `<list>.<class>`.
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
    """Return the items of a list by the names of their classes; a repeated name is followed by the item's index."""
    named: dict[str, Any] = {}
    for index, item in enumerate(items):
        path = item.get("class_path") if isinstance(item, dict) else item
        name = str(path or index).rpartition(".")[2]
        named[f"{name}-{index}" if name in named else name] = item
    return named


def differences(before: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    """Return both values of each setting in which two configs differ, by the setting's dotted name."""
    old, new = flat(before), flat(now)
    names = sorted({*old, *new})
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def in_words(changed: dict[str, tuple[Any, Any]], most: int = 3) -> str:
    """Return at most `most` of the settings from `differences` as text, and the number of the remaining ones."""
    values = [f"{name} was {before}, is now {now}" for name, (before, now) in [*changed.items()][:most]]
    more = f" and {len(changed) - most} more" if len(changed) > most else ""
    return f"{'; '.join(values)}{more}"
