"""Metrics that torchmetrics does not provide, and metrics of torchmetrics with the settings of this package."""

from kd_lightning.metrics.accuracy import top1
from kd_lightning.metrics.cka import LinearCKA, linear_cka
from kd_lightning.metrics.classification import NLL, Brier, CalibrationError, PerClassAccuracy
from kd_lightning.metrics.faithfulness import Agreement, LogitCosine, SoftKL
from kd_lightning.metrics.neighbors import NeighborOverlap, neighbor_overlap
from kd_lightning.metrics.retrieval import retrieval
from kd_lightning.metrics.similarity import SimilarityDistance, similarity_distance

__all__ = [
    "NLL",
    "Agreement",
    "Brier",
    "CalibrationError",
    "LinearCKA",
    "LogitCosine",
    "NeighborOverlap",
    "PerClassAccuracy",
    "SimilarityDistance",
    "SoftKL",
    "linear_cka",
    "neighbor_overlap",
    "retrieval",
    "similarity_distance",
    "top1",
]
