"""Write results.json and predictions.safetensors atomically.

A later test adds values to results.json and replaces predictions.safetensors.
"""

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
ADDED = ("metrics", "details", "evaluators", "evaluator_seconds")
"""Parts of results.json to which a later test adds values."""
PREDICTIONS = "predictions.safetensors"


def record(folder: Path, results: Mapping[str, Any], samples: Mapping[str, Tensor]) -> Path:
    """Write results.json to a run's folder, or add results to the existing file, and return the path of the file.

    Args:
        folder: folder of the run.
        results: result of the function `collect`.
        samples: result of the function `samples`. If it is not empty, predictions.safetensors is written or replaced.
    """
    path = folder / FILE
    before = read(path)
    if before:
        kept = {part: before[part] for part in ("run", "data", "seconds", "last") if before.get(part) is not None}
        kept["protocol"] = {**results["protocol"], **before["protocol"], "evaluated": results["protocol"]["evaluated"]}
        added = {part: _merged(before.get(part, {}), results.get(part, {})) for part in ADDED}
        results = {**results, **kept, **added}
    elif path.exists():
        unreadable = path.with_name(f"{path.name}.unread")
        os.replace(path, unreadable)
        rank_zero_warn(f"{path} cannot be read; it is renamed to {unreadable.name}, and a new file is written")
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(_finite(results), indent=1, allow_nan=False) + "\n")
    if samples:
        write_tensors(folder / PREDICTIONS, samples, {"data": results["data"]["name"], "split": "test"})
    return path


def read(path: Path) -> dict[str, Any] | None:
    """Return the content of a results.json. Return None if the file is missing, damaged or incomplete.

    Raises:
        ConfigError: if the file has another schema (version of the file format).
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    check_schema(content, path, "results")
    complete = all(isinstance(content.get(part), dict) for part in ("run", "protocol", *ADDED))
    return content if complete else None


def _merged(before: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return old and new values. A new value replaces the old value with the same name.

    The histograms in `ood` are merged in the same way.
    """
    both = {**before, **new}
    if isinstance(before.get("ood"), dict) and isinstance(new.get("ood"), dict):
        both["ood"] = {**before["ood"], **new["ood"]}
    return both


def _finite(value: Any) -> Any:
    """Return the value with None in place of each NaN or infinity, because JSON has neither."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
