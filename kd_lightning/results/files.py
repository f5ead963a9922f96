"""results.json and predictions.safetensors: written whole, or added to."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kd_lightning.tensorfile import write_tensors

SCHEMA = 1
"""Raised where an older reader would misread a newer file."""
FILE = "results.json"
PREDICTIONS = "predictions.safetensors"


def record(folder: Path, found: Mapping[str, Any], each: Mapping[str, Tensor]) -> Path:
    """Writes results.json into a run's folder, or adds what is new to the one that is there.

    Args:
        folder: the run's own.
        found: as `collect` gives it.
        each: what the probes said of each test image, N: predictions.safetensors, where there is any.
    """
    path = folder / FILE
    if path.exists():
        before = json.loads(path.read_text())
        if before.get("schema") == SCHEMA:
            kept = {part: before[part] for part in ("seconds", "last") if before.get(part) is not None}
            merged = {part: {**before[part], **found[part]} for part in ("metrics", "details")}
            found = {**found, **kept, **merged}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(_finite(found), indent=1, allow_nan=False) + "\n")
    os.replace(partial, path)
    if each:
        write_tensors(folder / PREDICTIONS, each, {"data": found["data"]["name"], "split": "test"})
    return path


def _finite(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
