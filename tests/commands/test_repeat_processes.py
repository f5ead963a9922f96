"""repeat's processes: several at a time, stopped, killed, and two repeats at once."""

import fcntl
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from helpers.fake_fit import folders, install, write

from kd_lightning.commands.repeat import Repeat, processes
from kd_lightning.runs.lock import Lock


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)


@pytest.mark.usefixtures("fake")
def test_several_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {*range(8)})
    configs = [write(tmp_path, name, fake={"sleep": 0.6}) for name in "abcd"]
    Repeat(configs=configs, seeds=1, max_parallel=2)([])
    spans = [
        (float((p.parent / "began").read_text()), float(p.read_text()))
        for p in sorted(tmp_path.glob("runs/p/*/*/ended"))
    ]
    together = [sum(start <= moment < end for start, end in spans) for moment, _ in spans]
    assert max(together) == 2
    used = [json.loads(p.read_text())["OMP_NUM_THREADS"] for p in tmp_path.glob("runs/p/*/*/environment.json")]
    assert used == ["4"] * 4


def test_devices_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def given(key: str, **kwargs: int) -> list[str | None]:
        return [environment.get(key) for environment in processes.environments(**kwargs)]

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert given("CUDA_VISIBLE_DEVICES", max_parallel=3, gpus=4) == ["0", "1", "2"]
    assert given("CUDA_VISIBLE_DEVICES", max_parallel=2, gpus=4, each=2) == ["0,1", "2,3"]
    assert given("CUDA_VISIBLE_DEVICES", max_parallel=2, gpus=1) == [None, None]  # they share it
    assert given("CUDA_VISIBLE_DEVICES", max_parallel=1, gpus=4) == [None]  # it may take them all
    assert given("OMP_NUM_THREADS", max_parallel=2, gpus=2) == [None, None]
    assert given("OMP_NUM_THREADS", max_parallel=1, gpus=0) == [None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7f")
    assert given("CUDA_VISIBLE_DEVICES", max_parallel=2, gpus=2) == ["5", "GPU-7f"]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert given("OMP_NUM_THREADS", max_parallel=2, gpus=0) == ["3", "3"]


def drive(configs: list[str], patience: float = 60) -> multiprocessing.Process:
    """`repeat` in a process of its own."""

    def run() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without it
        processes.PATIENCE = patience
        Repeat(configs=configs, seeds=2, max_parallel=2)([])

    process = multiprocessing.get_context("fork").Process(target=run)  # which saves the imports
    process.start()
    return process


def wait_for(path: Path, pattern: str, count: int) -> None:
    for _ in range(1200):
        if len([*path.glob(pattern)]) >= count:
            return
        time.sleep(0.05)
    raise TimeoutError(pattern)


def alive(path: Path) -> bool:
    """Whether a process runs the script of this folder."""
    lines = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if os.access(p, os.R_OK)]
    return any(str(path / "fake.py").encode() + b"\0fit" in line for line in lines)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_ends_the_children_and_says_how_to_go_on(
    tmp_path: Path, number: signal.Signals, capfd: pytest.CaptureFixture
) -> None:
    configs = [write(tmp_path, name, fake={"sleep": 300, "checkpoint": True}) for name in "ab"]
    process = drive(configs)
    wait_for(tmp_path, "runs/p/*/*/last.ckpt", 2)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 130
    said = capfd.readouterr().out
    assert "stopped; to resume: python -m kd_lightning repeat --configs " + " ".join(configs) in said
    assert not alive(tmp_path)
    assert not [*tmp_path.rglob("*.lock")]
    rows = Repeat(configs=configs, seeds=1)([])
    assert [row["state"] for row in rows] == ["resumed", "resumed"]


@pytest.mark.usefixtures("fake")
def test_one_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    configs = [write(tmp_path, "a", fake={"sleep": 300, "stubborn": True})]
    process = drive(configs, patience=0.5)
    wait_for(tmp_path, "runs/p/*/*/began", 2)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert not alive(tmp_path)


@pytest.mark.e2e
@pytest.mark.usefixtures("fake")
def test_two_repeats_share_the_work_and_a_killed_ones_children_keep_it(tmp_path: Path) -> None:
    config = write(tmp_path, "a", fake={"sleep": 4})
    process = drive([config])
    wait_for(tmp_path, "runs/p/*/*/began", 2)
    rows = Repeat(configs=[config], seeds=3)([])
    assert [row["state"].partition(" ")[0] for row in rows] == ["elsewhere", "elsewhere", "ran"]
    assert "process " in rows[0]["state"]
    process.join(60)
    assert process.exitcode == 0
    write(tmp_path, "a", fake={"sleep": 6})
    process = drive([config])
    wait_for(tmp_path, "runs/p/*/*/began", 5)
    process.kill()  # it can tell its children nothing
    process.join()
    assert [row["state"].partition(" ")[0] for row in Repeat(configs=[config], seeds=2)([])] == [
        "elsewhere",
        "elsewhere",
    ]
    for _ in range(200):
        if not alive(tmp_path):
            break
        time.sleep(0.05)
    assert [row["state"] for row in Repeat(configs=[config], seeds=2)([])] == ["done before"] * 2
    assert len(folders(tmp_path)) == 5


def test_a_lock_is_its_holders_alone(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "x" / "run.lock"), Lock(tmp_path / "x" / "run.lock")
    assert first.take()
    assert not second.take()
    assert second.holder().startswith(f"process {os.getpid()} on ")
    first.free()
    assert not first.path.exists()
    assert second.take()
    second.free()
    first.path.write_text("process 1 on a machine that is gone\n")  # of a process that was killed
    assert first.take()
    first.free()


def test_a_lock_on_a_file_that_its_holder_has_just_taken_away_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, flock, calls = Lock(tmp_path / "run.lock"), fcntl.flock, []

    def late(number: int, how: int) -> None:
        if not calls:
            lock.path.unlink()
        calls.append(number)
        flock(number, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert lock.take()
    assert not Lock(lock.path).take()
    lock.free()
