"""The linear classifier of a timm model: its weight, and its outputs for vectors and for feature maps."""

import torch
import torch.nn.functional as F
from timm.layers import ClassifierHead
from torch import Tensor, nn

from kd_lightning.errors import ConfigError
from kd_lightning.models.extraction import extract
from kd_lightning.models.features import Reads
from kd_lightning.models.modes import eval_mode


def layers(model: nn.Module) -> list[nn.Module]:
    """Return the classifiers of a model: one, two (distilled DeiT), or none if `num_classes` is 0."""
    found = model.get_classifier()
    found = [*found] if isinstance(found, tuple | list | nn.ModuleList) else [found]
    return [layer for layer in found if isinstance(layer, nn.Module) and any(True for _ in layer.parameters())]


def weight_and_bias(name: str, model: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return the weight K,D and the bias K of a model's linear classifier. The bias is None if there is none.

    Raises:
        ConfigError: if the model has no classifier, several classifiers, or a classifier that is not linear.
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
        ConfigError: if x has another shape, or if its number of channels is not that of the classifier.
    """
    if x.ndim not in (2, 4):
        raise ConfigError(f"{name}: classify takes vectors N,D or maps N,D,H,W, not a tensor of shape {tuple(x.shape)}")
    if x.shape[1] != weight.shape[1]:
        raise ConfigError(
            f"{name}: the classifier reads {weight.shape[1]} channels, but the input has {x.shape[1]}; give the map "
            "that pooling reads, after the head convolution if the network has one"
        )
    return F.linear(x, weight, bias) if x.ndim == 2 else F.conv2d(x, weight[:, :, None, None], bias)


@torch.compiler.disable
@torch.no_grad()
def reads_maps(name: str, model: nn.Module, x: Tensor) -> bool:
    """Return whether a model has only pooling between its last map and its classifier.

    The function runs the model once in eval mode. The result is true if the average of the map is the embedding. It is
    also true if a class token is the embedding and the map consists of the other tokens. The result is false if there
    is a norm before or after pooling (ConvNeXt), an activation or convolution (NFNet), a hidden layer, or attention
    pooling. If a model has a head convolution, the last map and the embedding have different numbers of channels. The
    input of pooling is then used instead of the last map.

    Args:
        name: Name of the model in error messages.
        model: Model to test. Its modes are restored after the pass.
        x: Normalised image 1,3,H,W.

    Raises:
        ConfigError: if timm provides no feature maps of this model.
    """
    with eval_mode(model):
        seen = extract(name, model, x, Reads(maps=1, tokens=True, embedding=True))
        last, embedding = seen.maps[-1], seen.embedding
        if last.shape[1] != embedding.shape[1]:
            last = model.forward_features(x)
    if not isinstance(last, Tensor) or last.ndim != 4 or last.shape[1] != embedding.shape[1]:
        return False
    if _close(last.mean((2, 3)), embedding):
        return True
    if seen.tokens is None:
        return False
    patches = last.flatten(2).transpose(1, 2)
    return _close(seen.tokens[:, 0], embedding) and _close(seen.tokens[:, -patches.shape[1] :], patches)


@torch.no_grad()
def averaged_map(name: str, model: nn.Module, x: Tensor) -> Tensor | None:
    """Return the map 1,C,H,W whose average over the positions is the embedding of a model. Return None without one.

    The function runs the model once in eval mode.

    Args:
        name: Name of the model in error messages.
        model: Model to test. Its modes are restored after the pass.
        x: Normalised image 1,3,H,W.
    """
    with eval_mode(model):
        seen = extract(name, model, x, Reads(final=True, embedding=True))
    final, embedding = seen.final, seen.embedding
    if not isinstance(final, Tensor) or final.ndim != 4 or final.shape[1] != embedding.shape[1]:
        return None
    return final if _close(final.mean((2, 3)), embedding) else None


def _close(actual: Tensor, expected: Tensor) -> bool:
    """Return whether two tensors are equal up to 2 %. This tolerance is large enough for half precision."""
    return bool((actual - expected).float().norm() <= 0.02 * expected.float().norm())
