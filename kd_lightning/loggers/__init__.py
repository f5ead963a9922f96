"""Where a run's values go: metrics.csv in its folder, and W&B."""

from kd_lightning.loggers.online import OfflineSafeWandb, has_key
from kd_lightning.loggers.table import MetricsFile

__all__ = ["MetricsFile", "OfflineSafeWandb", "has_key"]
