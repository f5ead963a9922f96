"""Watch: a run's folder says what became of the run, and one process at a time works in it."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from kd_lightning.callbacks.stop import StoppedError
from kd_lightning.errors import ConfigError
from kd_lightning.lock import Lock
from kd_lightning.state import LOCK, write_state
from kd_lightning.wholefile import ENDING


class Watch(Callback):
    """Writes state.json as a run begins and, as a context around the command, how it ends.

    Args:
        folder: the run's own.
        goes_on: whether the run is there already.
        writes: false on all processes but the first.
        explain: an error's one line, where there is one.
    """

    def __init__(
        self, folder: Path, *, goes_on: bool, writes: bool, explain: Callable[[BaseException], Exception | None]
    ) -> None:
        self.folder, self.writes, self.explain = folder, writes, explain
        self.lock = Lock(folder / LOCK)
        self._trainer: Trainer | None = None
        if goes_on and writes:
            self._take()
            for path in folder.glob(f".*{ENDING}"):  # what was being written when the run was killed
                path.unlink(missing_ok=True)

    def _take(self) -> None:
        if self.lock.number is None and not self.lock.take():
            raise ConfigError(
                f"run.id: {self.folder.name} is being run by {self.lock.holder()}; wait for it, or stop it"
            )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and self.writes and not trainer.fast_dev_run:
            self._take()
            self._trainer = trainer
            write_state(self.folder, "running")

    def __enter__(self) -> "Watch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk: what ended the run is what is said
            if self._trainer is not None:
                write_state(self.folder, **self._end(error))
        self.lock.free()

    def _end(self, error: BaseException | None) -> dict[str, Any]:
        facts = {"epoch": self._trainer.current_epoch, "step": self._trainer.global_step}
        if error is None:
            return {"state": "finished", **facts}
        known = self.explain(error) or error
        said = " ".join(str(known).split()) or type(known).__name__
        stopped = isinstance(known, StoppedError | KeyboardInterrupt)
        return {"state": "stopped" if stopped else "failed", "error": said, "kind": type(error).__name__, **facts}
