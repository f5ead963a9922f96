"""results.json, checked: wrong types are left out and named, so that whatever reads it later can trust it."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kd_lightning.io.schema import schema_problem
from kd_lightning.reports.details import checked_details
from kd_lightning.reports.values import kind, number, printable

MOST_BYTES = 64_000_000


class ResultsError(ValueError):
    """A run that cannot be compared; the message says why, without the folder."""


@dataclass(frozen=True)
class Results:
    """The content of results.json. A text or number that is missing or of a wrong type is None."""

    run: dict[str, Any]
    code: dict[str, Any]
    data: dict[str, Any]
    protocol: dict[str, Any]
    seconds: float | None
    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    evaluators: dict[str, str] = field(default_factory=dict)
    """Each probe's settings, as a text."""


def read_results(path: Path) -> tuple[Results, list[str]]:
    """A results.json and what was left out of it, a line each.

    Raises:
        ResultsError: if it cannot be read, is not JSON or of another schema.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ResultsError(f"{path.name} has more than {MOST_BYTES // 10**6} MB")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultsError(f"{path.name} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, ResultsError):
            raise
        reason = printable(str(error)) if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise ResultsError(f"{path.name} is no JSON, or cut off ({reason})") from error
    if not isinstance(content, dict):
        raise ResultsError(f"{path.name} holds no table of results, but {kind(content)}")
    if problem := schema_problem(content):
        raise ResultsError(f"{path.name} {printable(problem)}")
    return _checked(content)


def _checked(content: dict[str, Any]) -> tuple[Results, list[str]]:
    problems: list[str] = []

    def section(name: str) -> dict[str, Any]:
        value = content.get(name)
        if isinstance(value, dict):
            return value
        problems.append(f"{name} is {kind(value)}, not a table; it counts as missing")
        return {}

    def take(name: str, fields: dict[str, Callable[[Any], Any]]) -> dict[str, Any]:
        found, taken = section(name), {}
        for key, check in fields.items():
            value = found.get(key)
            taken[key] = None if value is None else check(value)
            if value is not None and taken[key] is None:
                problems.append(f"{name}.{key} is {kind(value)}, not {_WANTED[check]}; it counts as missing")
        return taken

    texts = "project name id group method teacher teacher_fingerprint student".split()
    run = take("run", {**dict.fromkeys(texts, _text), "seed": _whole})
    code = take("code", {**dict.fromkeys("version commit torch timm lightning".split(), _text), "changed": _truth})
    counts = dict.fromkeys("classes train val test side".split(), _whole)
    data = take("data", {"name": _text, **counts, "class_names": _names})
    steps = dict.fromkeys("epoch step max_epochs".split(), _whole)
    steps |= dict.fromkeys("select checkpoint evaluated".split(), _text)
    protocol = take("protocol", {**steps, "test_batches": number})
    metrics = {}
    for given, value in section("metrics").items():
        name = printable(given, 80)
        taken = number(value)
        if taken is not None:
            metrics[name] = taken
        elif value is not None:
            problems.append(f"metrics.{name} is {kind(value)}, not a number; it is left out")
    seconds = number(content.get("seconds"))
    if seconds is None and content.get("seconds") is not None:
        problems.append(f"seconds is {kind(content['seconds'])}, not a number; it is left out")
    details, more = checked_details(content.get("details"))
    if run["seed"] is None:
        problems.append("run.seed is missing: the run counts, but cannot be paired with others")
    given = content.get("probes") if isinstance(content.get("probes"), dict) else {}
    evaluators = {printable(name, 60): printable(json.dumps(how, sort_keys=True), 200) for name, how in given.items()}
    return Results(run, code, data, protocol, seconds, metrics, details, evaluators), [*problems, *more]


def _text(value: Any) -> str | None:
    return printable(value) if isinstance(value, str) else None


def _whole(value: Any) -> int | None:
    return int(value) if number(value) is not None and math.floor(value) == value else None


def _truth(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _names(value: Any) -> list[str] | None:
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return [printable(name, 60) for name in value]
    return None


_WANTED = {
    _text: "a text",
    _whole: "a whole number",
    number: "a number",
    _truth: "true or false",
    _names: "a list of texts",
}
