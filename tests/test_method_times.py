"""The table of seconds by method: what is counted for which method, and when it warns."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import method_times
from helpers.factories import EVERY_METHOD
from helpers.method_times import column_of, method_of, names_of

from kd_lightning.methods import SP


class Terminal:
    """Keeps the lines that are written."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str, **kwargs: bool) -> None:
        self.lines.append(text)

    section = line


def item(path: str = "tests/test_x.py", *marks: str, **parameters: object) -> SimpleNamespace:
    """Return what the table reads of a test."""
    found = [SimpleNamespace(name=name) for name in marks]
    return SimpleNamespace(
        path=Path(path), callspec=SimpleNamespace(params=parameters), iter_markers=lambda: iter(found)
    )


def test_a_test_is_counted_for_the_method_of_its_parameters_or_of_its_file() -> None:
    names = names_of(EVERY_METHOD)
    for value in (SP, "SP", "SP-cnn", "SP, tokens", "sp_loss"):
        assert method_of(item(kind=value), names) == "SP"
    assert method_of(item("tests/methods/test_sp.py"), names) == "SP"
    assert method_of(item(kind="kd_loss"), names) is None  # it is in functional.py, and several methods use it
    assert method_of(item("tests/data/test_sp.py", size=3), names) is None


@pytest.mark.parametrize(
    ("marks", "column"),
    [
        ((), "default run"),
        (("parametrize", "example"), "as an example"),
        (("example", "e2e"), "not in the default run"),
        (("gpu",), "not in the default run"),
    ],
)
def test_examples_and_other_groups_have_columns_of_their_own(marks: tuple[str, ...], column: str) -> None:
    assert column_of(item("tests/test_x.py", *marks)) == column


def report(name: str, seconds: float, column: str = "default run", when: str = "call") -> pytest.TestReport:
    facts = [("method", name), ("column", column), ("cpu_seconds", seconds)]
    return pytest.TestReport("test", ("", 0, ""), {}, "passed", None, when, user_properties=facts, duration=0.5)


def test_a_method_above_the_aim_is_marked_and_one_above_twice_the_aim_is_warned_of() -> None:
    terminal = Terminal()
    reports = [report("KD", 1.0), report("KD", 9.0, "as an example"), report("SP", 2.0), report("SP", 2.0)]
    reports += [report("AT", 7.0), report("AT", 100.0, when="setup")]
    terminal.stats = {"passed": reports}
    method_times.pytest_terminal_summary(terminal)
    rows = {line.split()[2]: line for line in terminal.lines[2:5]}
    assert [*rows] == ["AT", "SP", "KD"]
    assert rows["KD"].split() == ["1.0", "9.0", "KD"]
    assert rows["SP"].endswith("SP  more than 3")
    assert "4.0  mean of 3" in terminal.lines[5]
    assert terminal.lines[6].strip().startswith("9.0  the base's tests")
    assert terminal.lines[7].strip().startswith("0.5  fixtures")
    assert terminal.lines[8:] == ["warning: AT costs the default run 7.0 seconds; the aim is 3"]
