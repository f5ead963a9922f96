"""The details of results.json as arrays with checked shapes: classes, calibration, OOD histograms, corruptions."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kd_lightning.reports.values import describe_value, finite_array, printable

Details = dict[str, Any]


def checked_details(content: Any) -> tuple[Details, list[str]]:
    """Return the valid details as float64 arrays, and one line for each invalid detail.

    A detail is valid if it has these shapes for K classes, B bins and S severities:

    - `per_class`: accuracy K, count K, accuracy_teacher K or None;
    - `confusion`: K,K;
    - `calibration`: confidence B, accuracy B, count B, and the number temperature;
    - `ood`: for each `<score>_<data>`, edges B + 1, known B, unknown B;
    - `corruptions`: severities S, and for each corruption accuracy S and accuracy_teacher S.
    """
    if content is None:
        return {}, []
    if not isinstance(content, dict):
        return {}, [f"details is {describe_value(content)}, not an object; it is treated as missing"]
    details, problems = {}, []
    for name, check in _CHECKS.items():
        value = content.get(name)
        if value is None or (isinstance(value, dict) and value and all(str(key).endswith("_teacher") for key in value)):
            continue  # only the teacher has this detail, because the student has no classifier
        try:
            details[name] = check(value)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            problems.append(f"details.{name} does not have the format of this version; it is skipped")
    return details, problems


def _required(value: Any, *shape: int | None) -> np.ndarray:
    array = finite_array(value, *shape)
    if array is None:
        raise ValueError("no numbers of that shape")
    return array


def _per_class(value: Any) -> Details:
    accuracy = _required(value["accuracy"], None)
    count, teacher = value.get("count"), value.get("accuracy_teacher")
    return {
        "accuracy": accuracy,
        "count": None if count is None else _required(count, len(accuracy)),
        "accuracy_teacher": None if teacher is None else _required(teacher, len(accuracy)),
    }


def _confusion(value: Any) -> np.ndarray:
    table = _required(value, None, None)
    return _required(value, len(table), len(table))


def _calibration(value: Any) -> Details:
    count = np.nan_to_num(_required(value["count"], None))
    if (count < 0).any():
        raise ValueError("negative counts")
    arrays = {name: _required(value[name], len(count)) for name in ("confidence", "accuracy")}
    temperature = value.get("temperature")
    return {
        **arrays,
        "count": count,
        "temperature": None if temperature is None else float(_required([temperature], 1)[0]),
    }


def _ood(value: Any) -> Details:
    return {printable(name, 60): _histograms(tables) for name, tables in value.items()}


def _histograms(value: Any) -> Details:
    known = np.nan_to_num(_required(value["known"], None))
    unknown = np.nan_to_num(_required(value["unknown"], len(known)))
    edges = _required(value["edges"], len(known) + 1)
    if not (np.isfinite(edges).all() and (np.diff(edges) > 0).all()) or min(known.min(), unknown.min()) < 0:
        raise ValueError("no histogram")
    return {"edges": edges, "known": known, "unknown": unknown}


def _corruptions(value: Any) -> Details:
    severities = _required(value["severities"], None)
    tables = {}
    for name in ("accuracy", "accuracy_teacher"):
        rows = value.get(name) or {}
        tables[name] = {printable(corruption, 60): _required(row, len(severities)) for corruption, row in rows.items()}
    return {"severities": severities, **tables}


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "per_class": _per_class,
    "confusion": _confusion,
    "calibration": _calibration,
    "ood": _ood,
    "corruptions": _corruptions,
}
