"""Places at which a network can be cut into a stem and branches."""

from contextlib import suppress
from copy import deepcopy

import torch
from torch import Tensor

from kd_lightning.distillation.checks import check_layer
from kd_lightning.errors import ConfigError
from kd_lightning.models import Features, Network, Reads
from kd_lightning.models.composites.branch_ensemble import cut
from kd_lightning.models.extraction import extract
from kd_lightning.models.modes import eval_mode

_SEEN = Reads(embedding=True, logits=True)


def check_cut(field: str, layer: int, network: Network) -> None:
    """Raise an error if a network cannot be cut after a stage.

    Args:
        field: Field that contains the number, for the message.
        layer: Number of the stage, counted back from the last stage, which has the number 1.
        network: Network to cut.

    Raises:
        ConfigError: if the modules after the stage do not compute the output of the network from the map of the stage.
            The message names the stages after which the network can be cut.
    """
    if getattr(network.model, "feature_info", None):
        check_layer(field, layer, network)
        if can_be_cut(network, layer):
            return
        if places := [n for n in range(1, len(network.model.feature_info) + 1) if can_be_cut(network, n)]:
            numbers = ", ".join(map(str, places))
            raise ConfigError(f"{field}: {network.name} cannot be cut after stage {layer}; choose one of {numbers}")
    raise ConfigError(
        f"model.student.name: {network.name} cannot be cut into a stem and branches; networks that can be cut: cifar_* "
        "(cifar_resnet20, cifar_vgg8, ...) and most convolutional networks of timm (resnet18, convnext_tiny, ...)"
    )


@torch.no_grad()
def can_be_cut(network: Network, layer: int) -> bool:
    """Return whether the modules after a stage compute the network's output from the map of the stage.

    Both outputs are computed in eval mode for two images of noise, with a copy of the network. The result is true on
    the device `meta`, which has no values.
    """
    if network.mean.is_meta:
        return True
    side = network.size or network.model.pretrained_cfg["input_size"][-1]
    noise = torch.randint(0, 256, (2, 3, side, side), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with suppress(Exception), torch.random.fork_rng(devices=[]), eval_mode(network):
        whole = network.features(noise.to(network.mean.device), maps=layer, **_named(_SEEN))
        tail = cut(deepcopy(network.model), layer)
        return _equal(extract(network.name, tail, whole.maps[0], _SEEN), whole)
    return False


def _named(reads: Reads) -> dict[str, bool]:
    return {"embedding": reads.embedding, "logits": reads.logits}


def _equal(found: Features, expected: Features) -> bool:
    return _close(found.embedding, expected.embedding) and _close(found.logits, expected.logits)


def _close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool((found - expected).norm() <= 1e-3 * expected.norm())
