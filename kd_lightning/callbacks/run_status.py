"""RunStatus: record the state of a run in its folder, and lock the folder for one process."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from kd_lightning.errors import ConfigError, StoppedError, one_line
from kd_lightning.io.atomic import ENDING
from kd_lightning.runs.lock import Lock
from kd_lightning.runs.place import cannot_create
from kd_lightning.runs.status import FILE, LOCK, in_words, read_state, write_state


class RunStatus(Callback):
    """Writes state.json when a run begins and when the run ends.

    Used as a context manager around the command, the object holds the lock of the run's folder. No other process of
    kd_lightning can then train in this folder. The lock is taken before any other file is written.

    Args:
        folder: Folder of the run.
        resumes: Whether the run exists and is resumed.
        writes: Whether this process writes files. It is false on ranks other than 0, and with fast_dev_run.
        explain: Function that returns a one-line error for an exception of known cause, and None for any other
            exception.
    """

    def __init__(
        self, folder: Path, *, resumes: bool, writes: bool, explain: Callable[[BaseException], BaseException | None]
    ) -> None:
        self.folder, self.resumes, self.writes, self.explain = folder, resumes, writes, explain
        self.lock = Lock(folder / LOCK)
        self._trainer: Trainer | None = None
        self._made: list[Path] = []

    def __enter__(self) -> "RunStatus":
        """Take the run's lock.

        Raises:
            ConfigError: if another process holds the lock, if it has begun or finished the run in the meantime, or if
                the folder cannot be created.
        """
        if not self.writes:
            return self
        self._made = [place for place in (self.folder, *self.folder.parents) if not place.exists()]
        try:
            taken = self.lock.take()
        except (OSError, ConfigError) as error:
            self.lock.free()
            self._remove_empty()
            raise cannot_create(self.folder, error) if isinstance(error, OSError) else error from error
        if not taken:
            raise ConfigError(
                f"run.id: {self.folder.name} is being run by {self.lock.holder()}; wait for this process, or stop it"
            )
        known = (self.folder / FILE).exists() or (self.folder / "config.yaml").exists()
        if (self.resumes and read_state(self.folder)["state"] == "finished") or (known and not self.resumes):
            self.lock.free()
            raise ConfigError(
                f"run.id: another process has used {self.folder.name} in the meantime, and this run "
                f"{in_words(self.folder)}; give another run.id"
            )
        for path in self.folder.glob(f".*{ENDING}"):  # incomplete files of a killed run
            if path.is_file():
                path.unlink(missing_ok=True)
        return self

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and self.writes:
            self._trainer = trainer
            write_state(self.folder, "running")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # with a full disk, only the error that ended the run is reported
            if self._trainer is not None:
                write_state(self.folder, **self._end(error))
        self.lock.free()
        self._remove_empty()

    def _remove_empty(self) -> None:
        """Remove the folders that this object has created, if they are still empty."""
        with contextlib.suppress(OSError):
            for place in self._made:
                if place.exists():
                    place.rmdir()

    def _end(self, error: BaseException | None) -> dict[str, Any]:
        facts = {"epoch": self._trainer.current_epoch, "step": self._trainer.global_step}
        if error is None:
            return {"state": "finished", **facts}
        known = self.explain(error) or error
        message = one_line(known, 2000)
        state = "stopped" if isinstance(known, StoppedError) else "failed"
        return {"state": state, "error": message, "kind": type(error).__name__, **facts}
