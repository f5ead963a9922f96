"""Networks for 32-pixel images, registered with timm under `cifar_*`.

Each family has its own file. Parameters have the same names as in RepDistiller (Tian et al. 2020) and mdistiller, so
that checkpoints of these projects can be loaded.
"""

from kd_lightning.models.cifar.base import CifarModel
from kd_lightning.models.cifar.bottleneck_resnet import CifarBottleneckResNet
from kd_lightning.models.cifar.mobilenetv2 import CifarMobileNetV2
from kd_lightning.models.cifar.resnet import BasicBlock, CifarResNet
from kd_lightning.models.cifar.shufflenetv1 import CifarShuffleNetV1
from kd_lightning.models.cifar.shufflenetv2 import CifarShuffleNetV2
from kd_lightning.models.cifar.vgg import CifarVGG
from kd_lightning.models.cifar.wide_resnet import CifarWideResNet

__all__ = [
    "BasicBlock",
    "CifarBottleneckResNet",
    "CifarMobileNetV2",
    "CifarModel",
    "CifarResNet",
    "CifarShuffleNetV1",
    "CifarShuffleNetV2",
    "CifarVGG",
    "CifarWideResNet",
]
