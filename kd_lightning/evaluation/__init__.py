"""Probes that judge a student; callbacks that a config names. An import here makes the class's name known in YAML."""

from kd_lightning.evaluation.embedding import embed
from kd_lightning.evaluation.knn import KNN, knn_scores

__all__ = ["KNN", "embed", "knn_scores"]
