"""Adapters: layers that map features of the student to the width of the teacher's features."""

from collections.abc import Collection, Sequence
from typing import Literal, TypeVar

from torch import nn
from torchvision.ops import MLP

Init = Literal["default", "kaiming", "fan_out", "trunc_normal"]
Layers = TypeVar("Layers", bound=nn.Module)


def initialized(layers: Layers, init: Init) -> Layers:
    """Draw the initial weights of all linear layers and convolutions of a module, and return the module.

    With all values except `default`, the biases are 0. Norms keep torch's initial values.

    Args:
        layers: The module.
        init: `default`: torch's default, as the module was created. `kaiming`: uniform with the variance 1 / fan_in
            (`kaiming_uniform_` with a = 1), as in ReviewKD. `fan_out`: normal with the standard deviation
            sqrt(2 / (k^2 c_out)) for a kernel k x k and c_out outputs, as in OFD and SRRL. `trunc_normal`: truncated
            normal with the standard deviation 0.02, as in ViTs.
    """
    for layer in layers.modules():
        if init == "default" or not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        if init == "kaiming":
            nn.init.kaiming_uniform_(layer.weight, a=1)
        elif init == "fan_out":
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        else:
            nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return layers


def linear(width: int, output: int, *, bias: bool = True, init: Init = "default") -> nn.Linear:
    """Return a linear layer for vectors N,`width` and tokens N,M,`width`."""
    return initialized(nn.Linear(width, output, bias=bias), init)


def mlp(
    width: int,
    hidden: Sequence[int],
    output: int,
    *,
    norm: bool = False,
    bare: Collection[int] = (),
    init: Init = "default",
) -> nn.Sequential:
    """Return linear layers for vectors N,`width`. A ReLU follows each hidden layer.

    Args:
        width: Width of the input.
        hidden: Widths of the hidden layers.
        output: Width of the output.
        norm: Whether BatchNorm precedes each ReLU.
        bare: Numbers of the hidden layers, from 1, that neither BatchNorm nor ReLU follows.
        init: Initial weights (`initialized`).
    """
    widths, start, layers = [*hidden, output], 0, []
    for end in (*sorted(bare), len(widths)):
        layers += MLP(width, widths[start:end], norm_layer=nn.BatchNorm1d if norm else None)
        width, start = widths[end - 1], end
    return initialized(nn.Sequential(*layers), init)


def connector(
    channels: int,
    output: int,
    *,
    kernel: int = 1,
    stride: int = 1,
    bias: bool = False,
    norm: bool = True,
    relu: bool = True,
    init: Init = "default",
) -> nn.Sequential:
    """Return a convolution, BatchNorm and ReLU for maps N,`channels`,H,W.

    With stride 1, an odd kernel is padded, so that the size of the map remains. Other kernels are not padded.

    Args:
        channels: Number of channels of the input.
        output: Number of channels of the output.
        kernel: Height and width of the kernel, for example 1 or 3.
        stride: Stride of the convolution.
        bias: Whether the convolution has a bias.
        norm: Whether BatchNorm follows the convolution.
        relu: Whether a ReLU is the last layer.
        init: Initial weights (`initialized`).
    """
    padding = kernel // 2 if kernel % 2 and stride == 1 else 0
    layers = [nn.Conv2d(channels, output, kernel, stride=stride, padding=padding, bias=bias)]
    layers += [nn.BatchNorm2d(output)] if norm else []
    layers += [nn.ReLU()] if relu else []
    return initialized(nn.Sequential(*layers), init)
