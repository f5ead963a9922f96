"""Time and memory of a training step of each method, compared with KD."""

import inspect
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from torch.utils._pytree import tree_map_only

from benchmarks.tables import say_round
from kd_lightning import methods
from kd_lightning.batch import Batch
from kd_lightning.commands.running import run_class
from kd_lightning.distillation import Distiller, StudentModule
from kd_lightning.distillation.passes import as_inputs
from kd_lightning.errors import ConfigError, nearest
from kd_lightning.io.console import wide
from kd_lightning.models import Network, checkpoints

METHODS: dict[str, type[StudentModule]] = {
    name: kind for name, kind in vars(methods).items() if name in methods.__all__ and not inspect.isabstract(kind)
}


class MethodsBenchmark:
    """Measures a training step of each method: both forward passes, the losses, the backward pass, and the optimizer.

    The methods have their default settings, and are measured on one batch of noise in float32. They are timed in turns,
    and the first round is not counted. The losses are also measured alone, with stored outputs of both networks. This
    measurement includes the gradients of the losses, and all modules that are trained in addition to the student.

    Args:
        teacher: name of any timm model; its weights are random.
        student: name of any timm model.
        size: height and width of the images in pixels.
        classes: number of classes of both classifiers.
        batch_size: number of images per step.
        rounds: number of timed rounds. Their median and their range are printed.
        steps: number of steps of a method in a round.
        only: names of the methods to measure. KD is always measured. Default: all methods.
        device: `cpu` or `cuda`. With `cuda`, the peak memory of a step is also printed.
    """

    def __init__(
        self,
        teacher: str = "cifar_resnet56",
        student: str = "cifar_resnet20",
        size: int = 32,
        classes: int = 100,
        batch_size: int = 128,
        rounds: int = 5,
        steps: int = 3,
        only: list[str] | None = None,
        device: str = "cpu",
    ) -> None:
        numbers = {"size": size, "classes": classes, "batch_size": batch_size, "rounds": rounds, "steps": steps}
        for field, value in numbers.items():
            if value < 1:
                raise ConfigError(f"{field}: {value} is not positive")
        for name in only or []:
            if name not in METHODS:
                raise ConfigError(f"only: there is no method {name!r}{nearest(name, METHODS)}")
        if device != "cpu" and not torch.cuda.is_available():
            raise ConfigError(f"device: {device} is not available; choose cpu")
        self.teacher, self.student, self.size, self.classes = teacher, student, size, classes
        self.batch_size, self.rounds, self.steps, self.device = batch_size, rounds, steps, torch.device(device)
        self.names = [*dict.fromkeys(["KD", *(only or METHODS)])]

    def __call__(self) -> dict[str, float]:
        """Return the median time of a step of each method, in seconds."""
        with tempfile.TemporaryDirectory() as folder:
            built = {name: self._build(METHODS[name], Path(folder) / "teacher.safetensors") for name in self.names}
        steps = {name: Step(method, self._batch(method.min_views)) for name, method in built.items()}
        times: dict[str, list[float]] = {name: [] for name in self.names}
        loss_times: dict[str, list[float]] = {name: [] for name in self.names}
        for number in range(self.rounds + 1):
            for name, step in steps.items():
                seconds, loss_seconds = step.seconds(self.steps), step.seconds(self.steps, losses_alone=True)
                if number:
                    times[name].append(seconds)
                    loss_times[name].append(loss_seconds)
            say_round(number, self.rounds, f"{len(steps)} methods")
        self._print(times, loss_times, built, {name: step.memory for name, step in steps.items()})
        return {name: statistics.median(seconds) for name, seconds in times.items()}

    def _build(self, kind: type[StudentModule], weights: Path) -> StudentModule:
        networks = {"student": Network(self.student, num_classes=self.classes)}
        if issubclass(kind, Distiller):
            if not weights.exists():
                fresh = Network(self.teacher, num_classes=self.classes)
                checkpoints.write(weights, fresh.model.state_dict(), fresh.facts())
            networks["teacher"] = Network(self.teacher, checkpoint=str(weights))
        method = kind(**networks).to(self.device).train()
        if isinstance(method, Distiller):
            method.check_batch_size(self.batch_size, "batch_size")
        method.recording = False  # recorded values are not used
        return method

    def _batch(self, views: int) -> Batch:
        rows = torch.arange(self.batch_size, device=self.device)
        shape = (views, self.batch_size, 3, self.size, self.size)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device)
        return Batch(images[0], rows % self.classes, rows, rows, (*images[1:],))

    def _print(
        self,
        times: dict[str, list[float]],
        loss_times: dict[str, list[float]],
        built: dict[str, StudentModule],
        memory: dict[str, float],
    ) -> None:
        title = f"{self.teacher} to {self.student}, {self.size} px, batch {self.batch_size}, {self.rounds} rounds"
        table = Table(title=title, title_justify="left")
        columns = [
            "",
            "ms per step, median",
            "lowest to highest",
            "times KD's",
            "losses, ms",
            "share",
            "parameters added",
        ]
        for column in columns + ["peak MiB"] * any(memory.values()):
            table.add_column(column, justify="left" if not column else "right")
        kd = statistics.median(times["KD"])
        for name, seconds in sorted(times.items(), key=lambda item: statistics.median(item[1])):
            median, spread = statistics.median(seconds), f"{min(seconds) * 1e3:,.0f} to {max(seconds) * 1e3:,.0f}"
            parts = [part for child, part in built[name].named_children() if child != "student"]
            added = sum(parameter.numel() for part in parts for parameter in part.parameters())
            losses = statistics.median(loss_times[name])
            row = [name, f"{median * 1e3:,.0f}", spread, f"{median / kd:.2f}", f"{losses * 1e3:,.1f}"]
            row += [f"{losses / median:.1%}", f"{added:,}"]
            table.add_row(*row, *[f"{memory[name]:,.0f}"] * any(memory.values()))
        wide().print(table)


class Step:
    """A method's training step on one batch."""

    def __init__(self, method: StudentModule, batch: Batch) -> None:
        self.method, self.batch, self.memory = method, batch, 0.0
        self.optimizer = method.optimizer([p for p in method.parameters() if p.requires_grad])

    def seconds(self, count: int, *, losses_alone: bool = False) -> float:
        """Return the mean time of complete steps, or only of the losses and their gradients, in seconds."""
        if losses_alone:
            with Replay(self.method, self.batch):
                return self._seconds(count, lambda: None)
        return self._seconds(count, self.optimizer.step)

    def _seconds(self, count: int, update: Callable[[], Any]) -> float:
        on_gpu = self.batch.images.is_cuda
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(count):
            losses = self.method.training_terms(self.batch)
            torch.stack([*losses.values()]).sum().backward()
            update()
            self.optimizer.zero_grad()
        if on_gpu:
            torch.cuda.synchronize()
            self.memory = max(self.memory, torch.cuda.max_memory_allocated() / 2**20)
        return (time.perf_counter() - started) / count


class Replay:
    """A context manager in which a method computes its losses from stored outputs of its networks.

    Args:
        method: method whose networks are replaced by their stored outputs.
        batch: batch for which the outputs are computed once.
    """

    def __init__(self, method: StudentModule, batch: Batch) -> None:
        self.method = method
        outputs = method.run_networks(as_inputs(method.inputs(batch)))
        method.run_networks = lambda inputs: tree_map_only(Tensor, _leaf, outputs)

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None:
        del self.method.run_networks


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_(x.requires_grad)


if __name__ == "__main__":
    run_class(MethodsBenchmark, prog="python -m benchmarks.methods")
