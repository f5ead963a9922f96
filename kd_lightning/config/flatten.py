"""A config's settings, flat."""

from typing import Any


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names."""
    if not isinstance(content, dict) or not content:
        return {prefix: content}
    return {name: x for key, v in content.items() for name, x in flat(v, f"{prefix}.{key}".lstrip(".")).items()}


def differences(before: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    """The settings of two configs that differ, each with both values, by name."""
    old, new = flat(before), flat(now)
    names = sorted({*old, *new})
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def in_words(changed: dict[str, tuple[Any, Any]], most: int = 3) -> str:
    """The first of what `differences` gave."""
    values = [f"{name} {before}, now {now}" for name, (before, now) in [*changed.items()][:most]]
    more = f" and {len(changed) - most} more" if len(changed) > most else ""
    return f"{'; '.join(values)}{more}"
