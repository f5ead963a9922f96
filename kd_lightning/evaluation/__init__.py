"""Evaluators of a student, which a config names as callbacks. A class that is imported here can be named in YAML."""

from kd_lightning.evaluation.classification import Classification
from kd_lightning.evaluation.cost import Cost
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator
from kd_lightning.evaluation.exits import EarlyExits
from kd_lightning.evaluation.faithfulness import Faithfulness
from kd_lightning.evaluation.few_shot import FewShot
from kd_lightning.evaluation.knn import KNN
from kd_lightning.evaluation.knn_scores import knn_scores
from kd_lightning.evaluation.linear import LinearProbe
from kd_lightning.evaluation.membership import MembershipInference
from kd_lightning.evaluation.network_view import FeatureCache, NetworkView, Predictions, read
from kd_lightning.evaluation.ood import OutOfDistribution
from kd_lightning.evaluation.retrieval import Retrieval
from kd_lightning.evaluation.robustness import Corruptions
from kd_lightning.evaluation.shifts import Shifts
from kd_lightning.evaluation.transfer import Transfer

__all__ = [
    "KNN",
    "Classification",
    "Corruptions",
    "Cost",
    "EarlyExits",
    "EvaluationResult",
    "Evaluator",
    "Faithfulness",
    "FeatureCache",
    "FewShot",
    "LinearProbe",
    "MembershipInference",
    "NetworkView",
    "OutOfDistribution",
    "Predictions",
    "Retrieval",
    "Shifts",
    "Transfer",
    "knn_scores",
    "read",
]
