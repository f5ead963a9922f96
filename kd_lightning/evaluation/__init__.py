"""Probes that judge a student; callbacks that a config names. An import here makes the class's name known in YAML."""

from kd_lightning.evaluation.embedding import embed
from kd_lightning.evaluation.knn import KNN, knn_scores
from kd_lightning.evaluation.linear import LinearProbe
from kd_lightning.evaluation.probe import Embedded, Probe

__all__ = ["KNN", "Embedded", "LinearProbe", "Probe", "embed", "knn_scores"]
