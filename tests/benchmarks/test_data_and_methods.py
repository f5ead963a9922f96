"""The benchmarks of data and methods through their command lines."""

from pathlib import Path

import pytest
from helpers.factories import METHODS

from benchmarks import data
from benchmarks.data import DataBenchmark
from benchmarks.methods import MethodsBenchmark
from kd_lightning.commands.running import run_class


def refusal(kind: type, args: list[str], capfd: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as stopped:
        run_class(kind, args, prog="benchmark")
    assert stopped.value.code == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_refusals(capfd: pytest.CaptureFixture) -> None:
    assert "rounds: 0 is not positive" in refusal(DataBenchmark, ["--rounds=0"], capfd)
    assert "memory" in refusal(DataBenchmark, ["--tables=[memroy]"], capfd)
    assert "no method 'SEDE'; nearest: SEED" in refusal(MethodsBenchmark, ["--only=[SEDE]"], capfd)
    assert "steps: 0 is not positive" in refusal(MethodsBenchmark, ["--steps=0"], capfd)
    line = refusal(MethodsBenchmark, ["--batch_size=1", "--only=[SP]"], capfd)
    assert "batch_size: SP needs at least 2 images per batch, and 1 is too few" in line


def test_data_measures_all_three(tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    make = data._noise
    monkeypatch.setattr(data, "_noise", lambda folder, count, size: make(folder, 24, size))
    result = run_class(DataBenchmark, ["--rounds=1", "--seconds=0.01", "--batch_size=8"], prog="data")
    printed = capfd.readouterr().out
    assert len(result) == 3
    for table in result.values():
        assert all(speed > 0 for speed in table.values())
        assert any(name.startswith(("torchvision", "timm")) for name in table)
    assert "images/s, median" in printed
    assert printed.count("\nround 1 of 1: kd_lightning") + printed.count("round 0 (not counted): kd_lightning") == 6


def test_the_methods_benchmark_measures_each_beside_kd(capfd: pytest.CaptureFixture) -> None:
    small = ["--teacher=cifar_resnet8", "--student=cifar_resnet8", "--size=16", "--batch_size=8", "--classes=5"]
    result = run_class(MethodsBenchmark, [*small, "--rounds=1", "--steps=1"], prog="methods")
    assert {*result} == {kind.__name__ for kind in METHODS}
    assert all(seconds > 0 for seconds in result.values())
    printed = capfd.readouterr().out
    assert "times KD's" in printed
    assert [line for line in printed.splitlines() if line.startswith("round ")] == [
        f"round 0 (not counted): {len(METHODS)} methods",
        f"round 1 of 1: {len(METHODS)} methods",
    ]
    assert "SimReg" in printed
    assert [*run_class(MethodsBenchmark, [*small, "--rounds=1", "--only=[SP]"], prog="methods")] == ["KD", "SP"]
