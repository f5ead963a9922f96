"""The loggers of a run: metrics.csv in its folder, and W&B."""

from kd_lightning.loggers.csv import ResumableCSVLogger
from kd_lightning.loggers.wandb import ResilientWandbLogger, has_key

__all__ = ["ResilientWandbLogger", "ResumableCSVLogger", "has_key"]
