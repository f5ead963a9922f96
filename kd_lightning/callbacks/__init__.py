"""What happens around a run."""

from kd_lightning.callbacks.keep_config import KeepConfig
from kd_lightning.callbacks.overview import Overview
from kd_lightning.callbacks.predictions import Predictions
from kd_lightning.callbacks.progress import Progress
from kd_lightning.callbacks.protocol import Protocol

__all__ = ["KeepConfig", "Overview", "Predictions", "Progress", "Protocol"]
