"""The start of a distributed run: wait for all processes, and name those that do not start in time."""

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed import DistError, TCPStore
from torch.distributed.constants import default_pg_timeout

from kd_lightning.errors import RunError

_PATIENCE = 15.0
"""Seconds after which the first process prints the processes for which it waits."""
_LOOK_UP = 60.0
"""Seconds in which the name of the first process's machine must be found."""
_STORES: list[TCPStore] = []
"""Open stores, which torch's process group uses as well."""


def with_time_out(trainer: Trainer) -> Trainer:
    """Make the processes of a trainer wait for each other before torch connects them, and return the trainer.

    The time is limited by the strategy's `timeout`. Without this function, torch would wait for a missing process
    without naming it. Under torchrun, nothing is changed, because torchrun itself waits for all processes.
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and "TORCHELASTIC_RUN_ID" not in os.environ:
        usual = strategy.setup_distributed
        strategy.setup_distributed = lambda: _start(strategy, usual)
    return trainer


def _start(strategy: DDPStrategy, usual: Callable[[], None]) -> None:
    strategy.set_world_ranks()
    environment, world = strategy.cluster_environment, strategy.num_nodes * strategy.num_processes
    if world > 1:
        place = (environment.main_address, environment.main_port)
        seconds = (strategy._timeout or default_pg_timeout).total_seconds()
        _STORES.append(meet(*place, rank=strategy.global_rank, world=world, seconds=seconds))
    usual()


def meet(address: str, port: int, *, rank: int, world: int, seconds: float) -> TCPStore:
    """Wait until all processes of a run have started; return the store through which they met.

    Args:
        address: machine of the first process (MASTER_ADDR).
        port: port of the first process (MASTER_PORT).
        rank: index of this process.
        world: number of processes.
        seconds: time to wait.

    Raises:
        RunError: if the first process cannot be reached, or if others do not start in time. The message names them.
    """
    until = time.monotonic() + seconds
    place = f"MASTER_ADDR {address}, MASTER_PORT {port}"
    _look_up(address, min(seconds, _LOOK_UP))
    try:
        store = TCPStore(
            address, port, world, rank == 0, timedelta(seconds=seconds), wait_for_workers=False, multi_tenant=True
        )
    except (DistError, RuntimeError, ValueError) as error:
        reason = "the port is in use or belongs to another machine" if rank == 0 else "rank 0 does not answer"
        raise RunError(
            f"rank {rank} of {world}: {place} cannot be used within {seconds:g} seconds ({reason}); start rank 0 on "
            "the machine of MASTER_ADDR, and give all processes the same MASTER_ADDR and MASTER_PORT"
        ) from error
    store.set(_key(rank), socket.gethostname())
    told = rank > 0
    while missing := _missing(store, rank, world, place):
        waited = seconds - (until - time.monotonic())
        if waited > seconds:
            raise RunError(
                f"rank {rank} of {world}: {_named(missing)} not started within {seconds:g} seconds ({place}); start "
                "the command on every machine with its own NODE_RANK, and check trainer.num_nodes and trainer.devices"
            )
        if waited > _PATIENCE and not told:
            told = True
            print(f"waiting {seconds:g} seconds for all processes; {_named(missing)} not started yet", flush=True)
        time.sleep(0.05)
    return store


def _missing(store: TCPStore, rank: int, world: int, place: str) -> list[int]:
    try:
        return [other for other in range(world) if not store.check([_key(other)])]
    except (DistError, RuntimeError) as error:
        raise RunError(f"rank {rank} of {world}: rank 0 has ended; its output contains the error ({place})") from error


def _look_up(address: str, seconds: float) -> None:
    """Wait until the name of a machine can be resolved; a cluster may publish it shortly after the start."""
    until = time.monotonic() + seconds
    while True:
        try:
            socket.getaddrinfo(address, None)
            return
        except OSError as error:
            if time.monotonic() > until:
                raise RunError(
                    f"MASTER_ADDR: there is no machine named {address!r} ({error.strerror}, after {seconds:g} "
                    "seconds); set it to the name or address of the machine of rank 0, or unset it for one machine"
                ) from error
        time.sleep(0.2)


def _key(rank: int) -> str:
    return f"kd_lightning/rank {rank}"


def _named(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
    return f"rank {shown} has" if len(ranks) == 1 else f"ranks {shown} have"
