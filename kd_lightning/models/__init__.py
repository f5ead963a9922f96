"""Networks: any timm model by name, ours for small images among them."""

from kd_lightning.models import cifar as cifar  # registers cifar_resnet* with timm
from kd_lightning.models.network import Features, Network

__all__ = ["Features", "Network"]
