"""Keys and passwords: known by their names and forms, kept out of configs and of what is printed."""

import os
import re
from collections.abc import Iterator
from typing import Any

HIDDEN = "***"
_NAME = (
    r"[\w-]*(?:api[_-]?key|access[_-]?key|private[_-]?key|secret|passw(?:or)?d|[_-]pass|credentials?|authorization|token)"
    r"(?![a-z])"
)
_LEAST = 8
"""Characters from which on a text can be a key; below, hiding it would hide words."""
_NAMED = re.compile(rf"(\b{_NAME}['\"]?\s*[=:]\s*['\"]?)([^\s'\",}})\]]{{{_LEAST},}})", re.IGNORECASE)
_FORM = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|wandb_v\d_\w{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|sk-[\w-]{20,}|AKIA[A-Z0-9]{16}|glpat-[\w-]{20,}|xox[abp]-[\w-]{20,})"
)
_IN_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@'\"]+@", re.IGNORECASE)


def redacted(text: str) -> str:
    """A text with every key in it replaced by ***.

    Hidden are the values of this process's environment variables that are named like a key (WANDB_API_KEY, HF_TOKEN),
    values behind such a name (`api_key=...`, `'token': '...'`), what has the form of a known service's key, and user
    names and passwords in addresses.
    """
    for value in _of_environment():
        text = text.replace(value, HIDDEN)
    text = _IN_ADDRESS.sub(rf"\1{HIDDEN}@", text)
    return _FORM.sub(HIDDEN, _NAMED.sub(rf"\1{HIDDEN}", text))


def secret_field(config: Any, field: str = "") -> str | None:
    """The dotted name of the first value in nested tables and lists that is a key or a password; None if none is."""
    if isinstance(config, dict):
        for name, value in config.items():
            if isinstance(value, str) and len(value) >= _LEAST and re.fullmatch(_NAME, str(name), re.IGNORECASE):
                return f"{field}.{name}".lstrip(".")
            if found := secret_field(value, f"{field}.{name}".lstrip(".")):
                return found
    elif isinstance(config, list | tuple):
        return next((found for value in config if (found := secret_field(value, field))), None)
    elif isinstance(config, str) and redacted(config) != config:
        return field
    return None


def _of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if len(value) >= _LEAST and re.fullmatch(_NAME, name, re.IGNORECASE) and not value.startswith(("/", "~")):
            yield value
