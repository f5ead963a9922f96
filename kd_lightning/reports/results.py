"""Read and check results.json: values of a wrong type are skipped and reported."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kd_lightning.io.paths import read_text
from kd_lightning.io.schema import schema_problem
from kd_lightning.redaction import allow_names
from kd_lightning.reports.details import checked_details
from kd_lightning.reports.values import describe_value, number, printable

MAX_BYTES = 64_000_000


class ResultsError(ValueError):
    """Error for a run that cannot be compared. The message is the reason, without the folder of the run."""


@dataclass(frozen=True)
class Results:
    """The content of results.json. Texts and numbers that are missing or have a wrong type are None."""

    run: dict[str, Any]
    code: dict[str, Any]
    data: dict[str, Any]
    protocol: dict[str, Any]
    seconds: float | None
    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    evaluators: dict[str, str] = field(default_factory=dict)
    """Settings of each evaluator, as text."""


def read_results(path: Path) -> tuple[Results, list[str]]:
    """Return the content of results.json, and one line for each skipped value.

    Raises:
        ResultsError: if the file cannot be read, is not JSON, or has another schema.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ResultsError(f"{path.name} is larger than {MAX_BYTES // 10**6} MB")
        content = json.loads(read_text(path))
    except OSError as error:
        raise ResultsError(f"{path.name} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, ResultsError):
            raise
        reason = printable(str(error)) if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise ResultsError(f"{path.name} is not JSON, or truncated ({reason})") from error
    if not isinstance(content, dict):
        raise ResultsError(f"{path.name} is not a table of results, but {describe_value(content)}")
    if problem := schema_problem(content):
        raise ResultsError(f"{path.name} {printable(problem)}")
    return _checked(content)


def _checked(content: dict[str, Any]) -> tuple[Results, list[str]]:
    problems: list[str] = []

    def section(name: str) -> dict[str, Any]:
        value = content.get(name)
        if isinstance(value, dict):
            return value
        problems.append(f"{name} is {describe_value(value)}, not a table; it is treated as missing")
        return {}

    def take(name: str, fields: dict[str, Callable[[Any], Any]]) -> dict[str, Any]:
        values, checked = section(name), {}
        for key, check in fields.items():
            value = values.get(key)
            checked[key] = None if value is None else check(value)
            if value is not None and checked[key] is None:
                problems.append(
                    f"{name}.{key} is {describe_value(value)}, not {_EXPECTED[check]}; it is treated as missing"
                )
        return checked

    texts = "project name id group method teacher teacher_fingerprint student".split()
    run = take("run", {**dict.fromkeys(texts, _text), "seed": _whole_number})
    allow_names([run["project"], run["name"], run["id"], run["group"]])
    code = take("code", {**dict.fromkeys("version commit torch timm lightning".split(), _text), "changed": _boolean})
    counts = dict.fromkeys("classes train val test side".split(), _whole_number)
    data = take("data", {"name": _text, **counts, "class_names": _names})
    steps = dict.fromkeys("epoch step max_epochs".split(), _whole_number)
    steps |= dict.fromkeys("select checkpoint evaluated".split(), _text)
    protocol = take("protocol", {**steps, "test_batches": number})
    metrics = {}
    for raw_name, value in section("metrics").items():
        name = printable(raw_name, 80)
        checked = number(value)
        if checked is not None:
            metrics[name] = checked
        elif value is not None:
            problems.append(f"metrics.{name} is {describe_value(value)}, not a number; it is skipped")
    seconds = number(content.get("seconds"))
    if seconds is None and content.get("seconds") is not None:
        problems.append(f"seconds is {describe_value(content['seconds'])}, not a number; it is skipped")
    details, detail_problems = checked_details(content.get("details"))
    if run["seed"] is None:
        problems.append("run.seed is missing: the run is included, but has no pair in the baseline")
    by_name = content.get("evaluators") if isinstance(content.get("evaluators"), dict) else {}
    evaluators = {
        printable(name, 60): printable(json.dumps(settings, sort_keys=True), 200) for name, settings in by_name.items()
    }
    return Results(run, code, data, protocol, seconds, metrics, details, evaluators), [*problems, *detail_problems]


def _text(value: Any) -> str | None:
    return printable(value) if isinstance(value, str) else None


def _whole_number(value: Any) -> int | None:
    return int(value) if number(value) is not None and math.floor(value) == value else None


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _names(value: Any) -> list[str] | None:
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return [printable(name, 60) for name in value]
    return None


_EXPECTED = {
    _text: "a text",
    _whole_number: "a whole number",
    number: "a number",
    _boolean: "true or false",
    _names: "a list of texts",
}
