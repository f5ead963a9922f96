"""The version of the files that runs write: config.yaml, checkpoints and results.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_lightning.errors import ConfigError

SCHEMA = 3
"""Incremented by one when the previous version would misread a file."""


def check_schema(content: Mapping[str, Any], path: Path, field: str) -> None:
    """Check that a file of a run has this version's schema.

    Raises:
        ConfigError: for another schema or none; the message names `field` and the file.
    """
    if problem := schema_problem(content):
        raise ConfigError(f"{field}: {path} {problem}")


def schema_problem(content: Mapping[str, Any]) -> str:
    """Return what is wrong with a file's schema, as the end of a sentence; an empty string if it is correct."""
    schema = content.get("schema")
    if type(schema) is int and schema == SCHEMA:
        return ""
    version = "a newer" if type(schema) is int and schema > SCHEMA else "an older"
    has = (
        "has no schema"
        if schema is None
        else f"has schema {str(schema)[:20]!r}"
        if isinstance(schema, str)
        else (f"has schema {str(schema)[:20]}")
    )
    return f"{has}, but this version reads {SCHEMA}; {version} version of kd_lightning wrote it; repeat the run"
