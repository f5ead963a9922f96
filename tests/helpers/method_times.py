"""A table of the seconds that the tests of each method take; the aim is at most 3 in the default run.

The calls of tests that are parametrized by method, and of `methods/test_<method>.py`, are summed by method, in CPU
seconds with those of child processes. The last line has the wall-clock seconds of the fixtures that these tests share.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PER_METHOD = 3.0


def method_of(item: pytest.Item, methods: list[type]) -> str | None:
    """Return the name of the method that a test is about, from its parameters (`SP`, `SP-cnn`) or from its file."""
    names = {kind.__name__ for kind in methods}
    for value in item.callspec.params.values() if hasattr(item, "callspec") else ():
        name = value if isinstance(value, str) else getattr(value, "__name__", "")
        if (name := name.partition("-")[0].partition(",")[0]) in names:
            return name
    by_file = {f"methods/test_{kind.__module__.rpartition('.')[2]}.py": kind.__name__ for kind in methods}
    return by_file.get("/".join(Path(item.path).parts[-2:]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from helpers.factories import METHODS  # imports the package, which xdist's main process does not need

    for item in items:
        if name := method_of(item, METHODS):
            item.user_properties.append(("method", name))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    before = sum(os.times()[:4])
    try:
        return (yield)
    finally:
        item.user_properties.append(("cpu_seconds", sum(os.times()[:4]) - before))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    seconds: dict[str, float] = defaultdict(float)
    shared = 0.0
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        facts = dict(report.user_properties) if isinstance(report, pytest.TestReport) else {}
        if "method" in facts and report.when == "call":
            seconds[facts["method"]] += facts["cpu_seconds"]
        elif "method" in facts:
            shared += report.duration
    if seconds:
        terminalreporter.section("seconds by method")
        for name, value in sorted(seconds.items(), key=lambda row: -row[1]):
            terminalreporter.line(f"{value:7.1f}  {name}{'  more than 3' * (value > PER_METHOD)}")
        mean = sum(seconds.values()) / len(seconds)
        terminalreporter.line(f"{mean:7.1f}  mean of {len(seconds)}; fixtures that they share: {shared:.1f}")
