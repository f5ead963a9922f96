"""The processes of a run meet within a time; the missing ones are named."""

import socket
import threading
from collections.abc import Callable

import pytest
from torch.distributed import TCPStore

from kd_lightning.callbacks import distributed_start
from kd_lightning.callbacks.distributed_start import meet
from kd_lightning.errors import RunError


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_the_missing_rank_is_named(port: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(distributed_start, "_PATIENCE", 0.2)
    with pytest.raises(RunError) as raised:
        meet("127.0.0.1", port, rank=0, world=3, seconds=0.5)
    assert "rank 0 of 3: ranks 1, 2 have not started within 0.5 seconds" in str(raised.value)
    assert f"MASTER_PORT {port}" in str(raised.value)
    assert "ranks 1, 2 have not started yet" in capfd.readouterr().out


def test_all_processes_meet(port: int) -> None:
    found: list[TCPStore] = []
    joined: list[Callable] = [
        threading.Thread(target=lambda rank=rank: found.append(meet("127.0.0.1", port, rank=rank, world=2, seconds=20)))
        for rank in range(2)
    ]
    for thread in joined:
        thread.start()
    for thread in joined:
        thread.join(20)
    assert len(found) == 2


def test_a_first_process_that_does_not_answer(port: int) -> None:
    with pytest.raises(RunError, match=r"rank 1 of 2: MASTER_ADDR 127.0.0.1, MASTER_PORT .*rank 0 does not answer"):
        meet("127.0.0.1", port, rank=1, world=2, seconds=0.5)


def test_a_machine_that_does_not_exist() -> None:
    with pytest.raises(RunError, match=r"MASTER_ADDR: there is no machine named 'nowhere.invalid'"):
        meet("nowhere.invalid", 29500, rank=0, world=2, seconds=0.3)
