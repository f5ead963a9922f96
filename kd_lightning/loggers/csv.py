"""metrics.csv: one row per logged step. Runs that were interrupted and resumed have no gaps and no duplicates."""

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
    """Lightning's CSVLogger, which writes metrics.csv in a run's folder and appends to it when the run is resumed.

    If the disk is full, the run continues, and the rows are kept in memory until they can be written. The logger warns
    when this happens for the first time. At the end, it warns about the rows that could not be written.

    Args:
        folder: folder of the run.
        first_step: first step that this session logs. Existing rows of this step and of later steps are removed. They
            were written after the last checkpoint of a run that was killed.
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
        """Write all rows, and wait until they are on the disk."""
        self.save()
        if self.experiment.path.exists():
            to_disk(self.experiment.path)

    def finalize(self, status: str) -> None:
        super().finalize(status)
        if self._experiment is not None and self._experiment.metrics:
            rank_zero_warn(
                f"{len(self._experiment.metrics)} rows could not be written to {self._experiment.path}, so the file "
                "has gaps; check the disk before the next run"
            )


class _Rows(_ExperimentWriter):
    """Appends rows to the existing file; if the header changes, the file is rewritten atomically.

    Args:
        folder: folder of the file.
        first_step: step from which existing rows are removed: the rows of this step and of all later steps.
    """

    def __init__(self, folder: str, first_step: int) -> None:
        super().__init__(folder)
        self.path, self._warned = Path(self.metrics_file_path), False
        if self.path.is_file():
            rows = [row for row in self._existing() if row["step"].isdecimal() and int(row["step"]) < first_step]
            self.metrics_keys = [key for key in rows[0] if key] if rows else []
            self._write(rows)

    def _check_log_dir_exists(self) -> None:
        """Do nothing: Lightning's method would delete the file."""

    def save(self) -> None:
        keys = [*self.metrics_keys]
        try:
            if self.metrics and (self._record_new_keys() or not self.path.exists()):
                self._write([*self._existing(), *self.metrics])
            elif self.metrics:
                self._append(self.metrics)
            self.metrics = []
        except OSError as error:
            self.metrics_keys = keys
            if not self._warned:
                rank_zero_warn(f"{self.path} cannot be written ({error}); rows are kept in memory and written later")
            self._warned = True

    def _existing(self) -> list[dict[str, str]]:
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
            os.truncate(self.path, size)  # remove a partly written row
            raise
