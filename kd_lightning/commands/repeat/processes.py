"""Runs as processes: several at a time, each with its devices, its lock and its log, and stopped cleanly."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from kd_lightning.commands.repeat.plan import Job, last_error
from kd_lightning.runs.lock import Lock

PATIENCE = 60.0
"""Seconds that a run which is told to stop may take for it."""


@dataclass
class Outcome:
    """What came of a job: `done before`, `ran`, `resumed`, `failed`, `elsewhere`, `stopped` or `not begun`."""

    job: Job
    state: str
    folder: Path | None = None
    seconds: float | None = None
    said: str = ""
    results: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Running:
    job: Job
    folder: Path
    lock: Lock
    place: int
    state: str
    process: subprocess.Popen
    began: float


class Processes:
    """Runs jobs, so many at a time.

    Args:
        arguments: of `fit`, for all.
        environments: the environment of each place; there are as many runs at a time as places.
        say: takes a line about what goes on.
    """

    def __init__(self, arguments: list[str], environments: list[dict[str, str]], say: Callable[[str], None]) -> None:
        self.arguments, self.environments, self.say = arguments, environments, say
        self.running: list[_Running] = []
        self.stops = 0
        """How often it was told to stop."""

    def run(self, jobs: list[Job]) -> list[Outcome]:
        """What came of each job, in their order."""
        outcomes: dict[str, Outcome] = {}
        waiting, told = deque(jobs), 0.0
        with self._stoppable():
            while self.running or (waiting and not self.stops):
                while waiting and len(self.running) < len(self.environments) and not self.stops:
                    job = waiting.popleft()
                    if outcome := self._start(job):
                        outcomes[job.id] = outcome
                if self.stops and not told:
                    self.say(f"stopping {len(self.running)}, for up to {PATIENCE:.0f} seconds")
                    for one in self.running:
                        one.process.terminate()
                    told = time.monotonic()
                if told and (self.stops > 1 or time.monotonic() - told > PATIENCE):
                    for one in self.running:
                        _kill(one.process)
                for one in [one for one in self.running if one.process.poll() is not None]:
                    self.running.remove(one)
                    outcomes[one.job.id] = self._end(one)
                time.sleep(0.05)
        return [outcomes.get(job.id) or Outcome(job, "not begun") for job in jobs]

    def _start(self, job: Job) -> Outcome | None:
        """What there is to say of a job that is not started."""
        lock = Lock(job.beside / f"{job.id}.lock")
        if not lock.take():
            return Outcome(job, "elsewhere", said=lock.holder())
        if found := job.result():  # since it was looked for, perhaps: only now nobody else is at it
            lock.free()
            return Outcome(job, "done before", found[0], found[1].get("seconds"), results=found[1])
        places = {*range(len(self.environments))} - {one.place for one in self.running}
        place, folder = min(places), job.next()
        state = "resumed" if job.checkpoint() else "ran"
        with open(folder.with_name(f"{folder.name}.log"), "wb") as log:
            process = subprocess.Popen(
                job.command(self.arguments, folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environments[place],
                pass_fds=[lock.number],
                start_new_session=True,  # Ctrl-C is for this process alone, which tells them
            )
        lock.sign(process.pid)
        self.running.append(_Running(job, folder, lock, place, state, process, time.monotonic()))
        hint = f" goes on from {job.checkpoint()}" if state == "resumed" else ""
        self.say(f"{job.config.path}, seed {job.seed}:{hint} -> {folder}")
        return None

    def _end(self, one: _Running) -> Outcome:
        seconds, found = time.monotonic() - one.began, one.job.result()
        one.lock.free()
        if found:
            return Outcome(one.job, one.state, found[0], seconds, results=found[1])
        if self.stops:
            return Outcome(one.job, "stopped", one.folder, seconds)
        status, log = one.process.returncode, one.folder.with_name(f"{one.folder.name}.log")
        said = last_error(log.read_text(errors="replace"), status)
        if status < 0:
            said = f"killed by {signal.Signals(-status).name}; last: {said}"
        elif status == 0:
            said = f"it ended without a results.json; last: {said}"
        self.say(f"{one.job.config.path}, seed {one.job.seed}: failed: {said}; {log}")
        return Outcome(one.job, "failed", one.folder, seconds, said)

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Counts what would end this process, so that its children are ended first."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.stops += 1

        before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and jobs in the background
                    before[number] = signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for one in self.running:  # left by an error of this process
                _kill(one.process)
                one.lock.free()


def environments(max_parallel: int, *, gpus: int, each: int = 1) -> list[dict[str, str]]:
    """The environment of each of so many runs at a time.

    Where there are GPUs for all, each has its own; where they would share the CPU, each has its part of the cores.

    Args:
        max_parallel: runs.
        gpus: that the runs may use; 0: none.
        each: GPUs that one run takes.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(gpus)] if given is None else [x for x in given.split(",") if x][:gpus]
    found = []
    for place in range(max_parallel):
        own = {}
        if max_parallel > 1 and len(names) >= max_parallel * each:
            own["CUDA_VISIBLE_DEVICES"] = ",".join(names[place * each : (place + 1) * each])
        elif max_parallel > 1 and not gpus and "OMP_NUM_THREADS" not in os.environ:
            own["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // max_parallel))
        found.append({**os.environ, **own})
    return found


def count_gpus() -> int:
    """The GPUs that this process sees."""
    import torch  # takes seconds

    return torch.cuda.device_count()


def _kill(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
