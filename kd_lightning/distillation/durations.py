"""Durations of a part of a run: a number of epochs, or a share of all epochs."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from kd_lightning.errors import ConfigError

Duration = int | float
"""A number of epochs (0, 1, 2, ...), or a share of the run's epochs (between 0 and 1)."""


class Durations(LightningModule):
    """Base class of methods with warm-ups or stages of training, whose lengths are arguments."""

    durations: dict[str, Duration]
    epoch: Tensor
    """Number of the current epoch, from 1. It is a tensor because torch.compile compiles a loss again for each number
    that it reads, but only once for a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("epoch", torch.ones((), dtype=torch.int64), persistent=False)

    def set_durations(self, **durations: Duration) -> None:
        """Set durations as attributes that have the names of the arguments.

        Raises:
            ConfigError: if a value is neither a number of epochs nor a share.
        """
        for name, value in durations.items():
            if not math.isfinite(value) or value < 0 or (value > 1 and value != int(value)):
                raise ConfigError(
                    f"model.{name}: {value} is neither a number of epochs (0, 1, 2, ...) nor a share of the run's "
                    "epochs (between 0 and 1)"
                )
            setattr(self, name, value)
        self.durations = {**getattr(self, "durations", {}), **durations}

    def check_durations(self, trainer: Any) -> None:
        """Raise an error if a share is given, and the run has no number of epochs. Warn if the run is shorter.

        Raises:
            ConfigError: in this case. The message names the field.
        """
        durations = getattr(self, "durations", {}) if trainer is not None else {}
        for name, value in durations.items():
            unlimited = trainer.max_epochs in (None, -1)
            if value > 1 and not unlimited and value > trainer.max_epochs:
                rank_zero_warn(
                    f"model.{name}: {value:g} epochs do not end within the {trainer.max_epochs} epochs of this run; "
                    "give fewer epochs, or a share of the run's epochs"
                )
            if 0 < value < 1 and unlimited:
                raise ConfigError(
                    f"model.{name}: {value:g} is a share of the run's epochs, and the run has no number of epochs; "
                    "give a whole number, or trainer.max_epochs"
                )

    def in_epochs(self, name: str) -> float:
        """Return the duration with this name in epochs. A share need not give a whole number."""
        value = getattr(self, name)
        if value == 0 or value >= 1:
            return float(value)
        return value * (self.trainer.max_epochs if self._trainer is not None else 1)

    def ramp(self, name: str) -> Tensor:
        """Return the factor of a term in a linear warm-up, a scalar: `epoch` / duration, and 1 afterwards."""
        return (self.epoch / (self.in_epochs(name) or 1)).clamp(max=1)
