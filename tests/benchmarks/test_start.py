"""The benchmark of start-up times."""

import pytest

from benchmarks import start
from kd_lightning.commands.running import run_class


def test_it_prints_medians_and_shares(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    taken = {start.LIBRARIES: 4.0, start.COMMANDS["list"][0]: 1.0}
    monkeypatch.setattr(start, "user_seconds", lambda line: taken.get(line, 2.0))
    shares = run_class(start.StartBenchmark, ["--rounds=2"], prog="start")
    assert shares == {"--help": 0.5, "list": 0.25, "compare --help": 0.5, "fit --print_config": 0.5}
    printed = capsys.readouterr().out
    assert "fit --print_config" in printed
    assert "0.35" in printed


def test_user_seconds_are_of_the_process() -> None:
    assert 0.1 < start.user_seconds(("-c", "sum(i * i for i in range(5_000_000))")) < 60
