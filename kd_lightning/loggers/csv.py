"""metrics.csv: a row for each step that is logged, without a gap where a run was interrupted."""

import csv
import os
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.csv_logs import _ExperimentWriter
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from kd_lightning.io.atomic import atomic_write, to_disk
from kd_lightning.loggers.deduplicated import DeduplicatedLogging


class ResumableCSVLogger(DeduplicatedLogging, CSVLogger):
    """Lightning's CSVLogger, as metrics.csv in a run's folder, which a run that goes on there goes on with.

    A disk that is full for a while stops nothing: rows are kept and written when there is room. The first failure is
    warned of, the number of rows that were never written at the end.

    Args:
        folder: the run's own.
        first_step: the first step that this session logs; rows of later ones, written before the run was killed behind
            its last checkpoint, are dropped.
    """

    def __init__(self, folder: Path, *, first_step: int = 0) -> None:
        super().__init__(save_dir=folder, name="", version="", first_step=first_step)

    @property
    @rank_zero_experiment
    def experiment(self) -> "_Rows":
        if self._experiment is None:
            self._experiment = _Rows(self.log_dir, self.first_step)
        return self._experiment

    @rank_zero_only
    def sync(self) -> None:
        """Writes what there is, and waits until it is on the disk."""
        self.save()
        if self.experiment.path.exists():
            to_disk(self.experiment.path)

    def finalize(self, status: str) -> None:
        super().finalize(status)
        if self._experiment is not None and self._experiment.metrics:
            rank_zero_warn(f"{self._experiment.path}: {len(self._experiment.metrics)} rows could not be written to it")


class _Rows(_ExperimentWriter):
    """Appends to the file that is there; with another header, all rows are written anew in one step.

    Args:
        folder: of the file.
        first_step: rows of this step and later ones are dropped.
    """

    def __init__(self, folder: str, first_step: int) -> None:
        super().__init__(folder)
        self.path, self._warned = Path(self.metrics_file_path), False
        if self.path.is_file():
            rows = [row for row in self._held() if row["step"].isdecimal() and int(row["step"]) < first_step]
            self.metrics_keys = [key for key in rows[0] if key] if rows else []
            self._write(rows)

    def _check_log_dir_exists(self) -> None:
        """Lightning's would delete the file."""

    def save(self) -> None:
        keys = [*self.metrics_keys]
        try:
            if self.metrics and (self._record_new_keys() or not self.path.exists()):
                self._write([*self._held(), *self.metrics])
            elif self.metrics:
                self._append(self.metrics)
            self.metrics = []
        except OSError as error:
            self.metrics_keys = keys
            if not self._warned:
                rank_zero_warn(f"{self.path} cannot be written ({error}); its rows are kept for later")
            self._warned = True

    def _held(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", errors="replace") as file:
            return [{**row, "step": row.get("step") or ""} for row in csv.DictReader(file, restval="")]

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with atomic_write(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.metrics_keys, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)

    def _append(self, rows: list[dict[str, Any]]) -> None:
        size = self.path.stat().st_size
        try:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.metrics_keys).writerows(rows)
        except OSError:
            os.truncate(self.path, size)  # half of a row may have been written
            raise
