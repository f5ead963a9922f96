"""Facts about an exported file: its origin, its inputs and outputs, and its results."""

import json
import re
from pathlib import PurePosixPath
from typing import Any

from kd_lightning.commands.export.exported_model import ExportedModel
from kd_lightning.commands.export.loaded_student import LoadedStudent
from kd_lightning.commands.export.parity import Parity
from kd_lightning.distillation.student_facts import student_facts
from kd_lightning.runs.results.code import code

SCHEMA = 1
_NAMES = ("name", "group", "project")
"""Fields of a config whose values are not paths, although they may contain a slash."""
_ADDED = ("classifier_trained", "class_ids", "side", "crop_ratio")
"""Facts of `student_facts` that have no entry of their own."""
_SECRET = re.compile(r"token|secret|passw|api_?key|credential", re.IGNORECASE)
_PLACE = re.compile(r"^(file:|local-dir:)?(/|~|\$|\.{1,2}/|[A-Za-z]:[\\/]|\\\\)")


def provenance(source: LoadedStudent, student: ExportedModel) -> dict[str, Any]:
    """Return all facts except the comparison with PyTorch, as values for JSON, without paths of this machine.

    Metrics are included if results.json contains the results of these weights.
    """
    network, results = student.network, source.results
    run, seed = results.get("run", {}), source.config.get("seed_everything")
    data = results.get("data", {})
    described = student_facts(network, source.data, classifier_trained=source.knows_classes)
    return {
        "schema": SCHEMA,
        "architecture": network.model.pretrained_cfg.get("architecture", network.name),
        "model_kwargs": _plain(network.model_kwargs),
        "class_names": student.class_names,
        "input": {"dtype": student.dtype, "range": [0, 255] if student.dtype == "uint8" else [0, 1]}
        | {"shape": ["batch", 3, student.side, student.side], "channels": "RGB"},
        "outputs": list(student.outputs),
        "mean": network.mean.flatten().tolist(),
        "std": network.std.flatten().tolist(),
        "size": network.size,
        "interpolation": network.interpolation,
        "fingerprint": network.fingerprint()[:16],
        "run": _plain(run),
        "seeds": {"seed": seed, "split_seed": None if source.random_pixels else source.data.split_seed},
        "teacher": run.get("teacher"),
        "teacher_fingerprint": run.get("teacher_fingerprint"),
        "student": {name: value for name, value in described.items() if name in _ADDED},
        "data": {"name": _data_name(source, data)}
        | {part: data[part] for part in ("classes", "train", "val", "test", "side") if part in data},
        "protocol": results.get("protocol"),
        "metrics": results.get("metrics", {}) if source.evaluated else {},
        "checkpoint": source.checkpoint.name,
        "code": {"run": results.get("code"), "export": code()},
        "config": _plain(source.config),
    }


def _data_name(source: LoadedStudent, recorded: dict[str, Any]) -> str:
    return recorded.get("name") or "unknown data" if source.random_pixels else source.data.name


def with_parity(facts: dict[str, Any], parity: Parity, split: str) -> dict[str, Any]:
    """Return the facts, including the comparison of the file with PyTorch."""
    return {**facts, "parity": {"against": "PyTorch float32", "split": split, **parity.facts()}}


def as_json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True)


def _plain(value: Any, field: str = "") -> Any:
    """Return a config's values for JSON. Of a path, only the last part is kept. Possible secrets are removed."""
    if isinstance(value, dict):
        return {str(key): _plain(item, str(key)) for key, item in value.items() if not _SECRET.search(str(key))}
    if isinstance(value, list | tuple):
        return [_plain(item, field) for item in value]
    if isinstance(value, str):
        is_path = _PLACE.search(value) or "://" in value or (field not in _NAMES and re.search(r"[\\/]", value))
        return PurePosixPath(value.replace("\\", "/")).name if is_path else value
    return value if isinstance(value, int | float | bool) or value is None else str(value)
