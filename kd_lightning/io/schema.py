"""The schema: the version of the format of config.yaml, checkpoints and results.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_lightning.errors import ConfigError

SCHEMA = 3
"""Number of the current schema. It increases by one if older versions of the package would misread new files."""


def check_schema(content: Mapping[str, Any], path: Path, field: str) -> None:
    """Check that a file of a run has the current schema.

    Raises:
        ConfigError: if the file has another schema or none. The message begins with `field` and the path.
    """
    if problem := schema_problem(content):
        raise ConfigError(f"{field}: {path} {problem}")


def schema_problem(content: Mapping[str, Any]) -> str:
    """Return the problem with a file's schema as the end of a sentence, or an empty string if there is no problem."""
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
    return f"{has}, but this version of kd_lightning reads {SCHEMA}; {version} version wrote it; repeat the run"
