"""A W&B logger that never stops a run: it needs no account and no network, and never waits for input."""

import contextlib
import csv
import os
from collections.abc import Iterator, Mapping
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import wandb
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn

from kd_lightning.errors import one_line, redacted
from kd_lightning.loggers.csv import FILE
from kd_lightning.loggers.deduplicated import DeduplicatedLogging


class ResilientWandbLogger(DeduplicatedLogging, WandbLogger):
    """Lightning's WandbLogger. It logs online if there are an API key and a network, and otherwise offline.

    If W&B fails during the run (for example because its service is killed or a disk is full), the run continues. The
    logger warns once, and counts the calls that failed.

    Args:
        mode: `online` or `offline`. Default: the value of WANDB_MODE. If this variable is not set, the default is
            `online` if there is a key, and otherwise `offline`.
        **kwargs: arguments of WandbLogger and DeduplicatedLogging. Further arguments are passed to `wandb.init`.
    """

    def __init__(self, *, mode: str | None = None, **kwargs: Any) -> None:
        mode = mode or os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
        super().__init__(settings=wandb.Settings(mode=mode, silent=True, init_timeout=30), **kwargs)
        self._wandb_init.pop("anonymous", None)  # W&B warns about this argument even if it is None
        self.lost = 0
        """Number of calls to W&B that failed."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run. If the server cannot be reached or rejects the key, the run is started offline."""
        if self._experiment is None:
            self._begin()
            self._log_earlier_rows()
        return self._experiment

    def _begin(self) -> None:
        wandb.finish()  # in a notebook or a test, an earlier run may still be open; it would get the new values
        Path(self._save_dir).mkdir(parents=True, exist_ok=True)
        try:
            super().experiment  # noqa: B018  the property starts the W&B run
        except Exception as error:  # the client raises many types of exceptions
            reason = redacted(one_line(error))
            rank_zero_warn(
                f"W&B cannot be reached ({reason}); this run logs offline, and `wandb sync` can upload it later"
            )
            wandb.teardown()
            self._wandb_init["settings"] = wandb.Settings(mode="offline", silent=True)
            super().experiment  # noqa: B018

    def _log_earlier_rows(self) -> None:
        """Log the rows of metrics.csv from the earlier sessions of a resumed run, unless the W&B run contains them.

        An offline session starts a new W&B folder, and `wandb sync` lets the rows of a folder replace those that were
        uploaded before. Therefore the last folder must contain all rows.
        """
        path = Path(self._save_dir) / FILE
        if not self.first_step or self._experiment.resumed or not path.is_file():
            return
        with self.tolerated(), path.open(newline="", errors="replace") as file:
            for row in csv.DictReader(file, restval=""):
                step = row.pop("step", None) or ""
                if step.isdecimal() and int(step) < self.first_step:
                    WandbLogger.log_metrics(self, {key: float(text) for key, text in row.items() if text}, int(step))

    @contextlib.contextmanager
    def tolerated(self) -> Iterator[None]:
        """Count errors of W&B inside the block instead of raising them, and warn about the first error."""
        try:
            yield
        except Exception as error:
            self.lost += 1
            if self.lost == 1:
                reason = redacted(one_line(error))
                rank_zero_warn(f"W&B fails ({reason}); the run continues, and its folder contains all values")

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        with self.tolerated():
            super().log_metrics(metrics, step)

    def finalize(self, status: str) -> None:
        if self.lost > 1:
            rank_zero_warn(f"W&B did not receive {self.lost} rows or tables; the run's folder contains them")
        with self.tolerated():
            super().finalize(status)


def has_key() -> bool:
    """Return whether there is a key from `wandb login` or in WANDB_API_KEY, without input or network access."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url).hostname
    try:
        return netrc(os.environ.get("NETRC")).authenticators(host or "") is not None
    except (OSError, NetrcParseError):
        return False
