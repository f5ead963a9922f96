"""The BatchNorm layers before the last activations of the stages of a network."""

from torch import nn

from kd_lightning.errors import ConfigError
from kd_lightning.models.cifar.wide_resnet import CifarWideResNet


def before_activations(name: str, model: nn.Module, count: int) -> list[nn.BatchNorm2d]:
    """Return the BatchNorm layers whose outputs are, or are added to, the pre-activations of the last stages.

    It is the last BatchNorm of a stage, except those of shortcuts. `cifar_wrn_*` has it in the next stage.

    Args:
        name: Name of the network, for error messages.
        model: The timm model of the network.
        count: Number of last stages.

    Raises:
        ConfigError: if a stage has no such layer with the number of channels of its map.
    """
    if isinstance(model, CifarWideResNet):
        firsts = [stage.layer[0].bn1 for stage in (model.block1, model.block2, model.block3)]
        return [*firsts, model.bn1][-count:]
    return [_last_norm(name, model, info) for info in model.feature_info[-count:]]


def _last_norm(name: str, model: nn.Module, info: dict) -> nn.BatchNorm2d:
    stage = model.get_submodule(info["module"])
    found = [
        module
        for path, module in stage.named_modules()
        if isinstance(module, nn.BatchNorm2d) and not {"shortcut", "downsample"} & {*path.split(".")}
    ]
    stem = info["module"].startswith("act") and getattr(model, "bn1", None)  # the first stage of timm's ResNets
    norm = found[-1] if found else stem
    if not isinstance(norm, nn.BatchNorm2d) or norm.num_features != info["num_chs"]:
        raise ConfigError(
            f"{name}: no BatchNorm with {info['num_chs']} channels is before the last activation of the stage "
            f"{info['module']}; choose a network that has one (cifar_resnet*, cifar_wrn_*, cifar_vgg*, timm's resnet*)"
        )
    return norm
