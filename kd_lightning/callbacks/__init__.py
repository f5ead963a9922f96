"""What happens around a run."""

from kd_lightning.callbacks.ema import EMA
from kd_lightning.callbacks.guard import Guard
from kd_lightning.callbacks.keep_config import KeepConfig
from kd_lightning.callbacks.memory import OutOfMemory
from kd_lightning.callbacks.overview import Overview
from kd_lightning.callbacks.predictions import Predictions
from kd_lightning.callbacks.progress import Progress
from kd_lightning.callbacks.protocol import Protocol
from kd_lightning.callbacks.speed import Speed
from kd_lightning.callbacks.stop import Stop
from kd_lightning.callbacks.watch import Watch

__all__ = [
    "EMA",
    "Guard",
    "KeepConfig",
    "OutOfMemory",
    "Overview",
    "Predictions",
    "Progress",
    "Protocol",
    "Speed",
    "Stop",
    "Watch",
]
