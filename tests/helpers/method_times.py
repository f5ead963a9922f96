"""A table of the seconds that each method costs the default run of the tests; the aim is at most 3.

The calls of tests that are parametrized by method or by its losses, and of `methods/test_<method>.py`, are summed by
method, in CPU seconds with those of child processes. Tests of the base that take one or two methods as examples
(`pytest.mark.example`) are in a column of their own, since a new method adds none of them; so are the tests that are
not in the default run. The last line has the fixtures that all these tests share, in seconds of wall time.
"""

import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PER_METHOD = 3.0
COLUMNS = ("default run", "as an example", "not in the default run")


def names_of(methods: list[type]) -> dict[str, str]:
    """Return the method that each name stands for: that of its class, of a loss in its file, or of its test's file."""
    names = {kind.__name__: kind.__name__ for kind in methods}
    for kind in methods:
        module = kind.__module__
        losses = [name for name, value in vars(sys.modules[module]).items() if name.endswith("_loss")
                  if getattr(value, "__module__", "") == module]  # fmt: skip
        names |= dict.fromkeys([*losses, f"methods/test_{module.rpartition('.')[2]}.py"], kind.__name__)
    return names


def method_of(item: pytest.Item, names: dict[str, str]) -> str | None:
    """Return the method that a test is about, from its parameters (`SP`, `SP-cnn`, `sp_loss`) or from its file."""
    for value in item.callspec.params.values() if hasattr(item, "callspec") else ():
        name = value if isinstance(value, str) else getattr(value, "__name__", "")
        if (name := name.partition("-")[0].partition(",")[0]) in names:
            return names[name]
    return names.get("/".join(Path(item.path).parts[-2:]))


def column_of(item: pytest.Item) -> str:
    """Return the column of the table that a test's seconds are added to."""
    marks = {mark.name for mark in item.iter_markers()}
    return COLUMNS[2] if marks & {"e2e", "slow", "gpu"} else COLUMNS[1] if "example" in marks else COLUMNS[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from helpers.factories import EVERY_METHOD  # imports the package, which xdist's main process does not need

    names = names_of(EVERY_METHOD)
    for item in items:
        if name := method_of(item, names):
            item.user_properties += [("method", name), ("column", column_of(item))]


def _cpu_seconds() -> float:
    """Return the seconds of this process, to the microsecond, and those of its children that have ended."""
    return time.process_time() + sum(os.times()[2:4])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    before = _cpu_seconds()
    try:
        return (yield)
    finally:
        item.user_properties.append(("cpu_seconds", _cpu_seconds() - before))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    seconds: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(COLUMNS, 0.0))
    shared = 0.0
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        facts = dict(report.user_properties) if isinstance(report, pytest.TestReport) else {}
        if "method" in facts and report.when == "call":
            seconds[facts["method"]][facts["column"]] += facts["cpu_seconds"]
        elif "method" in facts:
            shared += report.duration
    if seconds:
        _write(terminalreporter, seconds, shared)


def _write(terminal: Any, seconds: dict[str, dict[str, float]], shared: float) -> None:
    """Write the table: the most expensive method first, and a warning where one costs more than twice the aim."""
    shown = [name for name in COLUMNS if name == COLUMNS[0] or any(row[name] for row in seconds.values())]
    terminal.section("seconds by method")
    terminal.line("  ".join(f"{name:>{max(7, len(name))}}" for name in shown))
    for name, row in sorted(seconds.items(), key=lambda each: -each[1][COLUMNS[0]]):
        figures = "  ".join(f"{row[column]:{max(7, len(column))}.1f}" for column in shown)
        terminal.line(f"{figures}  {name}{'  more than 3' * (row[COLUMNS[0]] > PER_METHOD)}")
    by_method = [row[COLUMNS[0]] for row in seconds.values()]
    examples = sum(row[COLUMNS[1]] for row in seconds.values())
    terminal.line(f"{sum(by_method) / len(by_method):11.1f}  mean of {len(by_method)}")
    terminal.line(f"{examples:11.1f}  the base's tests, run with one or two methods as examples")
    terminal.line(f"{shared:11.1f}  fixtures that all of them share")
    for name, row in seconds.items():
        if row[COLUMNS[0]] > 2 * PER_METHOD:
            text = f"warning: {name} costs the default run {row[COLUMNS[0]]:.1f} seconds; the aim is {PER_METHOD:.0f}"
            terminal.line(text, yellow=True, bold=True)
