"""A profiler of the parts of a step of `fit`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.profilers import Profiler

from kd_lightning.distillation import StudentModule

_PARTS = {
    "train_dataloader_next": "data",
    "batch_to_device": "data",
    "batch_transfer": "data",
    ".training_step": "loss",
    ".backward": "backward",
    "optimizer_step": "optimizer",
    "optimizer_zero_grad": "optimizer",
    "gradient_clipping": "optimizer",
    "[Callback]": "callbacks",
}
ORDER = ("data", "teacher", "student", "loss", "backward", "optimizer", "logging", "callbacks", "Lightning's loop")


class StepProfiler(Profiler):
    """A profiler for Lightning. If parts of a step are nested, the time counts for the innermost part.

    On a GPU, the profiler waits at the end of every part. The sum of all parts is therefore larger than the time of a
    step without the profiler.

    Args:
        clock: function that returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock, self.inside, self.last = clock, [ORDER[-1]], clock()
        self.seconds: dict[str, float] = {}
        self.runs = False

    def _turn(self) -> None:
        now = self.clock()
        if self.runs:
            self.seconds[self.inside[-1]] = self.seconds.get(self.inside[-1], 0.0) + now - self.last
        self.last = now

    def start(self, action_name: str) -> None:
        parts = (part for words, part in _PARTS.items() if words in action_name)
        self.enter(next(parts, self.inside[-1]))

    def enter(self, part: str) -> None:
        self._turn()
        self.inside.append(part)

    def stop(self, action_name: str = "") -> None:
        if len(self.inside) > 1:  # otherwise the part began before the profiler was used
            self._turn()
            self.inside.pop()

    def go(self) -> None:
        """Start counting time."""
        self.last, self.runs = self.clock(), True

    def halt(self) -> None:
        """Stop counting time until `go` is called: between epochs, and until `fit` has reached its usual speed."""
        self._turn()
        self.runs = False

    @contextmanager
    def on(self, trainer: Trainer, method: StudentModule) -> Iterator[None]:
        """Profile the steps of the trainer inside the block, including both networks and logging as separate parts."""
        before, trainer.profiler = trainer.profiler, self
        places: list[tuple[Any, str, str]] = [
            (method.student, "features", "student"),
            (method.student, "forward", "student"),
        ]
        if hasattr(method, "teacher"):
            places.append((method, "teacher_features", "teacher"))
        if "weighted_terms" in vars(method):
            places = []  # the step is compiled as one graph, in which the networks are not separate parts
        places += [(method, "log_dict", "logging")]
        places += [(logger, name, "logging") for logger in trainer.loggers for name in ("log_metrics", "save")]
        originals = [(owner, name, vars(owner).get(name)) for owner, name, _ in places]
        for owner, name, part in places:
            setattr(owner, name, self._watched(getattr(owner, name), part))
        try:
            yield
        finally:
            trainer.profiler = before
            for owner, name, own in originals:
                delattr(owner, name) if own is None else setattr(owner, name, own)

    def _watched(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.enter(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.stop()

        return watched
