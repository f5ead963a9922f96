"""results.json and predictions.safetensors: written whole, or added to."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from kd_lightning.io.atomic import atomic_write, write_tensors
from kd_lightning.io.schema import check_schema

FILE = "results.json"
ADDED = ("metrics", "details", "probes", "probe_seconds")
"""The parts that a later test adds to."""
PREDICTIONS = "predictions.safetensors"


def record(folder: Path, found: Mapping[str, Any], each: Mapping[str, Tensor]) -> Path:
    """Writes results.json into a run's folder, or adds what is new to the one that is there.

    Args:
        folder: the run's own.
        found: as `collect` gives it.
        each: what the probes said of each test image, N: predictions.safetensors, where there is any.
    """
    path = folder / FILE
    before = read(path)
    if before:
        kept = {part: before[part] for part in ("run", "data", "seconds", "last") if before.get(part) is not None}
        kept["protocol"] = {**found["protocol"], **before["protocol"], "evaluated": found["protocol"]["evaluated"]}
        found = {**found, **kept, **{part: _merged(before.get(part, {}), found.get(part, {})) for part in ADDED}}
    elif path.exists():
        aside = path.with_name(f"{path.name}.unread")
        os.replace(path, aside)
        rank_zero_warn(f"{path} cannot be read; it is kept as {aside.name}")
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(_finite(found), indent=1, allow_nan=False) + "\n")
    if each:
        write_tensors(folder / PREDICTIONS, each, {"data": found["data"]["name"], "split": "test"})
    return path


def read(path: Path) -> dict[str, Any] | None:
    """Return the content of a results.json; None where there is none, or where it is damaged.

    Raises:
        ConfigError: for a file of another version.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    check_schema(found, path, "results")
    complete = all(isinstance(found.get(part), dict) for part in ("run", "protocol", *ADDED))
    return found if complete else None


def _merged(before: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What was there, with what is new in its place; of histograms by name, both."""
    both = {**before, **new}
    if isinstance(before.get("ood"), dict) and isinstance(new.get("ood"), dict):
        both["ood"] = {**before["ood"], **new["ood"]}
    return both


def _finite(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
