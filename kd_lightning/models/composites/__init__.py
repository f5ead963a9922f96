"""Models that consist of several networks: what some methods deploy, registered with timm so that a name builds them.

The children of a composite have the names that they have in the method, so that checkpoints of a run fit it.
"""

from kd_lightning.models.composites.base import Composite, assembled, is_composite
from kd_lightning.models.composites.branch_ensemble import BranchEnsemble, Fusion, new_branches
from kd_lightning.models.composites.mapped_embedding import MappedEmbedding
from kd_lightning.models.composites.residual_sum import ResidualSum
from kd_lightning.models.composites.reused_classifier import ReusedClassifier

__all__ = [
    "BranchEnsemble",
    "Composite",
    "Fusion",
    "MappedEmbedding",
    "ResidualSum",
    "ReusedClassifier",
    "assembled",
    "is_composite",
    "new_branches",
]
