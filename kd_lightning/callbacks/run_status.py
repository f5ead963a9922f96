"""RunStatus: a run's folder says what became of the run, and one process at a time works in it."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from kd_lightning.errors import ConfigError, StoppedError, redacted
from kd_lightning.io.atomic import ENDING
from kd_lightning.runs.lock import Lock
from kd_lightning.runs.status import FILE, LOCK, in_words, read_state, write_state


class RunStatus(Callback):
    """Writes state.json as a run begins and, as a context around the command, how it ends.

    Nobody else works in the run's folder within that context: it is locked before anything is written there.

    Args:
        folder: the run's own.
        resume_path: whether the run is there already.
        writes: false on all processes but the first, and where nothing is kept (fast_dev_run).
        explain: an error's one line, where there is one.
    """

    def __init__(
        self, folder: Path, *, resume_path: bool, writes: bool, explain: Callable[[BaseException], BaseException | None]
    ) -> None:
        self.folder, self.resume_path, self.writes, self.explain = folder, resume_path, writes, explain
        self.lock = Lock(folder / LOCK)
        self._trainer: Trainer | None = None
        self._made: list[Path] = []

    def __enter__(self) -> "RunStatus":
        """Takes the run's lock.

        Raises:
            ConfigError: if another process has it, or had it and has finished the run meanwhile.
        """
        if not self.writes:
            return self
        self._made = [place for place in (self.folder, *self.folder.parents[:3]) if not place.exists()]
        if not self.lock.take():
            raise ConfigError(f"run.id: {self.folder.name} is being run by {self.lock.holder()}; wait, or stop it")
        known = (self.folder / FILE).exists() or (self.folder / "config.yaml").exists()
        if (self.resume_path and read_state(self.folder)["state"] == "finished") or (known and not self.resume_path):
            self.lock.free()
            raise ConfigError(f"run.id: {self.folder.name} {in_words(self.folder)} by now, by another process")
        for path in self.folder.glob(f".*{ENDING}"):  # what was being written when the run was killed
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
        with contextlib.suppress(OSError):  # a full disk: what ended the run is what is said
            if self._trainer is not None:
                write_state(self.folder, **self._end(error))
        self.lock.free()
        with contextlib.suppress(OSError):  # refused before anything was written into the folders made for it
            for place in self._made:
                place.rmdir()

    def _end(self, error: BaseException | None) -> dict[str, Any]:
        facts = {"epoch": self._trainer.current_epoch, "step": self._trainer.global_step}
        if error is None:
            return {"state": "finished", **facts}
        known = self.explain(error) or error
        said = redacted(" ".join(str(known).split())) or type(known).__name__
        state = "stopped" if isinstance(known, StoppedError) else "failed"
        return {"state": state, "error": said, "kind": type(error).__name__, **facts}
