"""Classifier: the linear classifier of a timm model, and its logits of vectors and class maps of maps."""

import torch
import torch.nn.functional as F
from timm.layers import ClassifierHead
from torch import Tensor, nn

from kd_lightning.errors import ConfigError


def weight_and_bias(name: str, model: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return the weight K,D and the bias K (None where it has none) of a model's linear classifier.

    Raises:
        ConfigError: in one line, if the model has no classifier, two, or one that is not linear.
    """
    layer = model.get_classifier()
    if isinstance(layer, ClassifierHead):
        layer = layer.fc
    if not model.num_classes or isinstance(layer, nn.Identity):
        raise ConfigError(f"{name}: this network has no classifier (num_classes is 0)")
    if isinstance(layer, tuple | list | nn.ModuleList):
        raise ConfigError(f"{name}: this network has {len(layer)} classifiers; choose a network with one")
    if isinstance(layer, nn.Linear):
        return layer.weight, layer.bias
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1:
        return layer.weight.flatten(1), layer.bias
    raise ConfigError(
        f"{name}: the classifier of this network is a {type(layer).__name__}; choose one with a linear layer"
    )


def classify(name: str, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """Return the logits N,K of vectors N,D or the class maps N,K,H,W of maps N,D,H,W.

    Raises:
        ConfigError: in one line, if x is neither or has another width than the classifier.
    """
    if x.ndim not in (2, 4):
        raise ConfigError(f"{name}: classify takes vectors N,D or maps N,D,H,W, not a tensor of shape {tuple(x.shape)}")
    if x.shape[1] != weight.shape[1]:
        raise ConfigError(
            f"{name}: the classifier reads {weight.shape[1]} channels and was given {x.shape[1]}; the map must be what "
            "pooling reads, after a head convolution where the network has one"
        )
    return F.linear(x, weight, bias) if x.ndim == 2 else F.conv2d(x, weight[:, :, None, None], bias)


@torch.compiler.disable
@torch.no_grad()
def reads_maps(model: nn.Module, width: int) -> bool:
    """Tell whether nothing but pooling lies between the last map of `width` channels and the classifier.

    A small made-up map is sent through the model's head, as N,C,H,W, as N,H,W,C and as tokens: average pooling gives
    its mean, and a class token passes as it is. A norm after pooling (ConvNeXt), a hidden layer, attention pooling or
    another pooling changes it.
    """
    modes = [(module, module.training) for module in model.modules()]
    like = next(model.parameters())
    positions = torch.arange(4 * width, device=like.device, dtype=torch.float32).mul(0.7).sin().to(like.dtype)
    positions = positions.view(1, 4, width)
    prefix = getattr(model, "num_prefix_tokens", 0)
    tokens = torch.cat([2 - positions[:, :1].expand(-1, prefix, -1), positions], 1)
    grid = positions.view(1, 2, 2, width)
    mean = positions.mean(1)
    expected = [mean, tokens.mean(1)] + ([tokens[:, 0]] if prefix else [])
    try:
        model.eval()
        for final in (grid.permute(0, 3, 1, 2).contiguous(), grid, tokens):
            try:
                with torch.autocast(like.device.type, enabled=False):
                    vector = model.forward_head(final, pre_logits=True)
            except Exception:  # heads refuse what they were not made for in many ways
                continue
            if any(vector.shape == one.shape and torch.allclose(vector, one, rtol=0.02, atol=0.02) for one in expected):
                return True
    finally:
        for module, mode in modes:
            module.training = mode
    return False
