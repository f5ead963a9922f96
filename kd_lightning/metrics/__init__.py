"""Metrics that torchmetrics does not have, and accuracy as it is measured everywhere here."""

from kd_lightning.metrics.accuracy import top1
from kd_lightning.metrics.neighbors import NeighborOverlap

__all__ = ["NeighborOverlap", "top1"]
