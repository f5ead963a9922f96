"""Networks: any timm model by name, and this package's networks for images of 32 pixels."""

from kd_lightning.models import cifar as cifar  # registers cifar_* with timm
from kd_lightning.models import composites as composites  # registers residual_sum, branch_ensemble, reused_classifier
from kd_lightning.models.features import Features, Reads
from kd_lightning.models.masking import Masked
from kd_lightning.models.network import Network

__all__ = ["Features", "Masked", "Network", "Reads"]
