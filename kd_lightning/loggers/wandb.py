"""A W&B logger that never stops a run: it needs no account and no network, and never waits for input."""

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
from pydantic import ValidationError

from kd_lightning.errors import ConfigError, one_line
from kd_lightning.loggers.deduplicated import DeduplicatedLogging


class ResilientWandbLogger(DeduplicatedLogging, WandbLogger):
    """Lightning's WandbLogger. It logs online if there are an API key and a network, and otherwise offline.

    If W&B fails during the run (for example because its service is killed or a disk is full), the run continues. The
    logger warns once, and counts the calls that failed.

    Args:
        mode: `online` or `offline`. Default: the value of WANDB_MODE. If this variable is not set, the default is
            `online` if there is a key, and otherwise `offline`.
        **kwargs: arguments of WandbLogger and DeduplicatedLogging. Further arguments are passed to `wandb.init`.

    Raises:
        ConfigError: if W&B does not accept the value of one of its environment variables.
    """

    def __init__(self, *, mode: str | None = None, **kwargs: Any) -> None:
        check_variables()
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
            wandb.finish()  # in a notebook or a test, an earlier run may still be open; it would get the new values
            Path(self._save_dir).mkdir(parents=True, exist_ok=True)
            try:
                return super().experiment
            except Exception as error:  # the client raises many types of exceptions
                reason = one_line(error)
                rank_zero_warn(
                    f"W&B cannot be reached ({reason}); this run logs offline, and `wandb sync` can upload it later"
                )
                wandb.teardown()
                self._wandb_init["settings"] = wandb.Settings(mode="offline", silent=True)
        return super().experiment

    @contextlib.contextmanager
    def tolerated(self) -> Iterator[None]:
        """Count errors of W&B inside the block instead of raising them, and warn about the first error."""
        try:
            yield
        except Exception as error:
            self.lost += 1
            if self.lost == 1:
                reason = one_line(error)
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


def check_variables() -> None:
    """Raise an error if W&B does not accept the value of an environment variable, such as WANDB_MODE.

    Raises:
        ConfigError: for the first such variable. The message contains the reason that W&B gives.
    """
    for name in filter(lambda name: name.startswith("WANDB_"), os.environ):
        try:
            wandb.Settings(silent=True).update_from_env_vars({name: os.environ[name]})
        except Exception as error:  # pydantic's or W&B's own
            reasons = error.errors() if isinstance(error, ValidationError) else []
            reason = reasons[0]["msg"] if reasons else one_line(error)
            raise ConfigError(
                f"{name}: W&B does not accept the value of this environment variable ({reason}); correct it, unset "
                "it, or set run.wandb to off"
            ) from error
