"""A callback that times steps of `fit` and, while `fit` waits, steps of other loops, in turns."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.bare_loop import Loop, NetworksAlone, clock
from benchmarks.memory import Peak
from benchmarks.step_profiler import StepProfiler
from benchmarks.tables import say_round
from kd_lightning.batch import Batch
from kd_lightning.callbacks import Speed
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError, StoppedError

Run = Callable[[int], None]


class InterleavedTimer(Callback):
    """Measures the run of `fit` to which this callback belongs; `benchmarks.fit` adds it to the callbacks of a config.

    A round has three parts. First, steps of `fit` within an epoch are timed, from the end of one step to the end of a
    later step. Second, the same number of steps is run with a profiler, which times their parts. Third, `fit` waits
    while steps of the other loops are timed. The first round is not counted. At the end, the result is written as JSON,
    and the process ends.

    Args:
        path: path of the JSON file for the result.
        rounds: number of timed rounds.
        steps: number of steps of each loop in a round.
        against: another codebase that is also measured. Default: none.
        alone: the only loop that is run, to measure its peak memory; nothing is timed. Default: all loops are timed.
    """

    resident = 4
    """Number of batches that the other loops use one after the other."""

    def __init__(
        self,
        *,
        path: str,
        rounds: int = 5,
        steps: int = 20,
        against: Literal["torchdistill"] | None = None,
        alone: Literal["fit", "bare", "torchdistill"] | None = None,
    ) -> None:
        self.path, self.rounds, self.steps, self.against, self.alone = Path(path), rounds, steps, against, alone
        self.batches: list[Batch] = []
        self.seconds: dict[str, list[float]] = {}
        self.parts: dict[str, list[float]] = {}
        self.others: dict[str, Run] | None = None
        self.round, self.watched = 0, False
        self.watching, self.watch = ExitStack(), None
        self.started, self.counted, self.spent, self.skips = None, 0, 0.0, 0
        self.peak: Peak | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            raise ConfigError(f"trainer.devices: this benchmark measures one device, not {trainer.world_size}")
        workers = getattr(trainer.train_dataloader, "num_workers", 0)
        self.settle = 2 * workers + 1  # skip the batches that workers prepared while `fit` waited
        if trainer.num_training_batches < self.settle + 2:
            raise ConfigError(
                f"data.batch_size: this benchmark needs {self.settle + 2} batches per epoch, but there are "
                f"{trainer.num_training_batches}; use a smaller batch size or more images"
            )
        self.clock = clock(pl_module.device)

    def on_train_batch_start(self, trainer: Trainer, pl_module: StudentModule, batch: Batch, batch_idx: int) -> None:
        if not self.alone or self.peak or batch_idx == 0:  # the first step allocates the state of `fit`
            return
        self.peak = Peak(pl_module.device)
        if self.alone != "fit":
            next(iter(self._others(trainer, pl_module, {self.alone}).values()))(self.steps)
            self._finish(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: StudentModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if len(self.batches) < self.resident:
            self.batches.append(Batch(*(deepcopy(value) for value in batch)))
        if self.alone:
            self.counted += self.peak is not None
            if self.counted >= self.steps:
                self._finish(trainer, pl_module)
            return
        self._count(trainer.is_last_batch)
        if self.counted >= self.steps:
            self._next(trainer, pl_module)

    def _count(self, last: bool) -> None:
        """Count one more step of `fit`, without the time between epochs."""
        if self.started is None:
            self.skips += 1
            if self.skips >= self.settle and not last:
                self.started, self.run_of = self.clock(), 0
                if self.watch:
                    self.watch.go()
            return
        self.run_of += 1
        if last or self.counted + self.run_of >= self.steps:
            self.spent += self.clock() - self.started
            if self.watch:
                self.watch.halt()
            self.counted += self.run_of
            self.started, self.skips = None, 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.skips = 0

    def _next(self, trainer: Trainer, method: StudentModule) -> None:
        """Begin the next part of a round: steps of `fit` with the profiler, or steps of the other loops."""
        mean = self.spent / self.counted
        if not self.watched:
            self._keep("fit", mean)
            self.watch = StepProfiler(self.clock)
            self.watching.enter_context(self.watch.on(trainer, method))
        else:
            self.watching.close()
            for part, seconds in self.watch.seconds.items():
                self._keep(part, seconds / self.counted, self.parts)
            self.watch = None
            if self.others is None:
                self.others = self._others(trainer, method, {"bare", "networks", self.against})
            for name, run in self.others.items():
                run(1)
                began = self.clock()
                run(self.steps)
                self._keep(name, (self.clock() - began) / self.steps)
            say_round(self.round, self.rounds, ", ".join(["fit", *self.others]))
            self.round += 1
        self.watched = not self.watched
        self.counted, self.spent, self.skips = 0, 0.0, 0
        if self.round > self.rounds:
            self._finish(trainer, method)

    def _keep(self, name: str, seconds: float, where: dict[str, list[float]] | None = None) -> None:
        if self.round:
            (self.seconds if where is None else where).setdefault(name, []).append(seconds)

    def _others(self, trainer: Trainer, method: StudentModule, wanted: set[str | None]) -> dict[str, Run]:
        """Return the loops with the given names; each loop has a copy of the networks and the run's speed settings."""
        speed = next(callback for callback in trainer.callbacks if isinstance(callback, Speed))
        runs: dict[str, Run] = {}
        for name, kind in (("bare", Loop), ("networks", NetworksAlone)):
            if name in wanted:
                copy = deepcopy(method) if not self.alone else method
                vars(copy).pop("losses", None)
                speed.apply(copy)
                loop = kind(copy, trainer, self.batches, [method.stored(batch) for batch in self.batches])
                if kind is NetworksAlone and speed.compile:
                    loop.loss = torch.compile(loop.loss, **speed.settings)
                runs[name] = loop.run
        if "torchdistill" in wanted:
            from benchmarks.torchdistill_baseline import runs_of

            runs |= runs_of(method, trainer)
        return runs

    def _finish(self, trainer: Trainer, method: StudentModule) -> None:
        networks = [network.name for network in (getattr(method, "teacher", None), method.student) if network]
        result = {
            "title": f"{type(method).__name__}, {' to '.join(networks)}, {self.batches[0].images.shape[-1]} px",
            "settings": f"batch {len(self.batches[0].images)}, {trainer.precision}, {_name(method.device)}",
            "images": len(self.batches[0].images),
            "batches": trainer.num_training_batches,
            "seconds": self.seconds,
            "parts": self.parts,
        }
        if self.peak:
            result |= {"before": self.peak.before, "peak": self.peak.mebibytes()}
        self.path.write_text(json.dumps(result))
        # trainer.should_stop cannot be used here, because it needs results of the validation
        raise StoppedError(0, "the benchmark is complete")


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
