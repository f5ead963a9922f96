"""Metrics that torchmetrics does not have."""

from kd_lightning.metrics.neighbors import NeighborOverlap

__all__ = ["NeighborOverlap"]
