"""Run jobs as processes: several at a time, each with its own devices, lock and log."""

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
"""Number of seconds that a run may take to end after a signal; a run that takes longer is killed."""


@dataclass
class Outcome:
    """The outcome of a job."""

    job: Job
    state: str
    """`done before`, `ran`, `resumed`, `failed`, `elsewhere` (another process runs the job), `stopped` or `not begun`.
    With `dry_run`, it is `done before`, `would run` or `would resume`."""
    folder: Path | None = None
    minutes: float | None = None
    """Duration of the training of a job that is done, as in its results.json: without the start of the process, the
    test and the evaluators, and with all parts of a training that was resumed."""
    message: str = ""
    """The error of a job that failed, or the process that runs a job elsewhere."""
    results: dict[str, Any] = field(default_factory=dict)
    log: Path | None = None
    """The log of a job that failed."""


@dataclass
class _Running:
    job: Job
    folder: Path
    lock: Lock
    place: int
    state: str
    process: subprocess.Popen


def done(job: Job, state: str, folder: Path, results: dict[str, Any]) -> Outcome:
    """Return the outcome of a job with a results.json."""
    seconds = results.get("seconds")
    return Outcome(job, state, folder, None if seconds is None else seconds / 60, results=results)


def summary(outcome: Outcome) -> str:
    """Return a line about a job that has ended: its name, its state, its result or error, and its training time."""
    name = outcome.job.config.name.replace("{seed}", str(outcome.job.seed))
    if outcome.state == "failed":
        return f"{name}: failed: {outcome.message}; the log is {outcome.log}"
    duration = "" if outcome.minutes is None else f", trained for {outcome.minutes:.1f} min"
    if outcome.state == "elsewhere":
        return f"{name}: is run elsewhere ({outcome.message})"
    state = {"ran": "", "resumed": "resumed, "}.get(outcome.state, f"{outcome.state}, ")
    return f"{name}: {state}{result(outcome.results) or 'no result'}{duration}"


def result(results: dict[str, Any]) -> str:
    """Return the main value of the selected epoch as text; '' if there is none.

    It is the first of these values: test accuracy, test accuracy of kNN, validation accuracy.
    """
    metrics = results.get("metrics") or {}
    suffixes = {"test/acc": "", "test/knn": " kNN", "val/acc": " of the validation images"}
    return next((f"{metrics[n]:.2%}{suffix}" for n, suffix in suffixes.items() if metrics.get(n) is not None), "")


class Processes:
    """Runs jobs, several at a time.

    Args:
        arguments: further arguments of `fit`, for all runs.
        environments: list of environment variables, with one element for each of the runs that run at the same time.
        say: function that prints a line about the progress.
    """

    def __init__(self, arguments: list[str], environments: list[dict[str, str]], say: Callable[[str], None]) -> None:
        self.arguments, self.environments, self.say = arguments, environments, say
        self.running: list[_Running] = []
        self.stops = 0
        """Number of signals to stop that this process has received."""

    def run(self, jobs: list[Job]) -> list[Outcome]:
        """Run the jobs, and return their outcomes in the same order. Print a line for each job that has ended."""
        outcomes: dict[str, Outcome] = {}

        def ended(outcome: Outcome) -> None:
            outcomes[outcome.job.id] = outcome
            if outcome.state != "stopped":
                self.say(f"{summary(outcome)} ({len(outcomes)} of {len(jobs)})")

        waiting, stopping_since = deque(jobs), 0.0
        with self._stoppable():
            while self.running or (waiting and not self.stops):
                while waiting and len(self.running) < len(self.environments) and not self.stops:
                    job = waiting.popleft()
                    if outcome := self._start(job):
                        ended(outcome)
                if self.stops and not stopping_since:
                    count = f"{len(self.running)} run{'s' * (len(self.running) != 1)}"
                    self.say(f"stopping {count}, which takes up to {PATIENCE:.0f} seconds")
                    for run in self.running:
                        run.process.terminate()
                    stopping_since = time.monotonic()
                if stopping_since and (self.stops > 1 or time.monotonic() - stopping_since > PATIENCE):
                    for run in self.running:
                        _kill(run.process)
                for run in [run for run in self.running if run.process.poll() is not None]:
                    self.running.remove(run)
                    ended(self._end(run))
                time.sleep(0.05)
        return [outcomes.get(job.id) or Outcome(job, "not begun") for job in jobs]

    def _start(self, job: Job) -> Outcome | None:
        """Start a job and return None; if the job cannot or need not be started, return its outcome instead."""
        lock = Lock(job.parent_dir / f"{job.id}.lock")
        if not lock.take():
            return Outcome(job, "elsewhere", message=lock.holder())
        if result := job.result():  # read after the lock is taken: another process may just have finished the job
            lock.free()
            return done(job, "done before", *result)
        places = {*range(len(self.environments))} - {run.place for run in self.running}
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
                start_new_session=True,  # Ctrl-C reaches only this process, which then stops the runs
            )
        lock.sign(process.pid)
        self.running.append(_Running(job, folder, lock, place, state, process))
        start = f"resumes from {job.checkpoint()}" if state == "resumed" else "starts"
        self.say(f"{job.config.title}, seed {job.seed}, {start} in {folder}")
        return None

    def _end(self, run: _Running) -> Outcome:
        result = run.job.result()
        run.lock.free()
        if result:
            return done(run.job, run.state, *result)
        if self.stops:
            return Outcome(run.job, "stopped", run.folder)
        status, log = run.process.returncode, run.folder.with_name(f"{run.folder.name}.log")
        message = last_error(log.read_bytes().decode(errors="replace"), status)
        if status < 0:
            message = f"it was killed by {signal.Signals(-status).name}; its last output: {message}"
        elif status == 0:
            message = f"it ended without a results.json; its last output: {message}"
        return Outcome(run.job, "failed", run.folder, message=message, log=log)

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Count signals inside the block, so that they do not end this process before it has ended its children."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.stops += 1

        before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and background jobs ignore some signals
                    before[number] = signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for run in self.running:  # runs remain only after an error in this process
                _kill(run.process)
                run.lock.free()


def environments(max_parallel: int, *, gpus: int, each: int = 1) -> list[dict[str, str]]:
    """Return the environment variables of the runs that run at the same time, one dict for each run.

    If there are enough GPUs for all runs, each run has its own GPUs. Without GPUs, each run has a share of the cores.

    Args:
        max_parallel: number of runs at a time.
        gpus: number of GPUs that the runs may use; 0 means that they use none.
        each: number of GPUs of one run.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(gpus)] if visible is None else [x for x in visible.split(",") if x][:gpus]
    variables_of_runs = []
    for place in range(max_parallel):
        changes = {}
        if max_parallel > 1 and len(names) >= max_parallel * each:
            changes["CUDA_VISIBLE_DEVICES"] = ",".join(names[place * each : (place + 1) * each])
        elif max_parallel > 1 and not gpus and "OMP_NUM_THREADS" not in os.environ:
            changes["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // max_parallel))
        variables_of_runs.append({**os.environ, **changes})
    return variables_of_runs


def count_gpus() -> int:
    """Return the number of GPUs that are visible to this process."""
    import torch  # takes seconds

    return torch.cuda.device_count()


def _kill(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
