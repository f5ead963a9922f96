"""Settings of a run's config that differ from those of another."""

from typing import Any


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted names; of a list of classes, their names and each class's own values."""
    own: dict[str, Any] = {}
    if isinstance(content, list) and any(isinstance(each, dict) for each in content):
        content = _by_name(content)
        own = {prefix: [*content]}
    if not isinstance(content, dict) or not content:
        return {prefix: content}
    return own | {name: x for key, v in content.items() for name, x in flat(v, f"{prefix}.{key}".lstrip(".")).items()}


def _by_name(items: list[Any]) -> dict[str, Any]:
    """Return the items of a list by the name of their class, which is numbered where it comes again."""
    named: dict[str, Any] = {}
    for place, item in enumerate(items):
        path = item.get("class_path") if isinstance(item, dict) else item
        name = str(path or place).rpartition(".")[2]
        named[f"{name}-{place}" if name in named else name] = item
    return named


def differences(before: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    """Return the settings of two configs that differ, each with both values, by name."""
    old, new = flat(before), flat(now)
    names = sorted({*old, *new})
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def in_words(changed: dict[str, tuple[Any, Any]], most: int = 3) -> str:
    """Return the first of what `differences` gave, as text."""
    values = [f"{name} {before}, now {now}" for name, (before, now) in [*changed.items()][:most]]
    more = f" and {len(changed) - most} more" if len(changed) > most else ""
    return f"{'; '.join(values)}{more}"
