"""W&B that never stops a run: no account, no network, no question asked."""

import contextlib
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
from kd_lightning.loggers.deduplicated import DeduplicatedLogging


class ResilientWandbLogger(DeduplicatedLogging, WandbLogger):
    """Lightning's WandbLogger, online where there is an API key and a network, offline everywhere else.

    A failure on the way (its service is killed, a disk is full) is warned of once, what it did not take is counted.

    Args:
        mode: `online` or `offline`; None: WANDB_MODE if it is set, else online where there is a key, else offline.
        **kwargs: as for WandbLogger and `Once`, further ones go to `wandb.init`.
    """

    def __init__(self, *, mode: str | None = None, **kwargs: Any) -> None:
        mode = mode or os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
        super().__init__(settings=wandb.Settings(mode=mode, silent=True, init_timeout=30), **kwargs)
        self._wandb_init.pop("anonymous", None)  # W&B warns of it even where it is None
        self.lost = 0
        """How often W&B did not take what it was given."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; started offline if the server cannot be reached or does not know the key."""
        if self._experiment is None:
            wandb.finish()  # else this run would go on writing into the one before it, in a notebook or a test
            Path(self._save_dir).mkdir(parents=True, exist_ok=True)
            try:
                return super().experiment
            except Exception as error:  # its client has many of its own
                reason = redacted(one_line(error))
                rank_zero_warn(f"W&B cannot be reached ({reason}); this run logs offline, `wandb sync` sends it later")
                wandb.teardown()
                self._wandb_init["settings"] = wandb.Settings(mode="offline", silent=True)
        return super().experiment

    @contextlib.contextmanager
    def tolerated(self) -> Iterator[None]:
        """Around what is sent to W&B: a failure of it is counted, the first one warned of."""
        try:
            yield
        except Exception as error:
            self.lost += 1
            if self.lost == 1:
                reason = redacted(one_line(error))
                rank_zero_warn(f"W&B takes nothing more ({reason}); the run goes on, its folder has everything")

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        with self.tolerated():
            super().log_metrics(metrics, step)

    def finalize(self, status: str) -> None:
        if self.lost > 1:
            rank_zero_warn(f"W&B has not taken {self.lost} rows of values or tables; the run's folder has them")
        with self.tolerated():
            super().finalize(status)


def has_key() -> bool:
    """Whether `wandb login` or WANDB_API_KEY has left a key; nothing is asked and nobody is called."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url).hostname
    try:
        return netrc(os.environ.get("NETRC")).authenticators(host or "") is not None
    except (OSError, NetrcParseError):
        return False
