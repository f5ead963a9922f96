"""Adapters: layers, sizes, initial weights, and names of weights that checkpoints contain."""

import math

import pytest
import torch
from torch import nn

from kd_lightning.distillation.adapters import Init, connector, linear, mlp


def deviation(layer: nn.Module) -> float:
    return layer.weight.std().item()


@pytest.mark.parametrize(
    ("init", "expected"),
    [
        ("kaiming", 1 / math.sqrt(32 * 9)),
        ("fan_out", math.sqrt(2 / (9 * 64))),
        ("trunc_normal", 0.02),
        ("default", 1 / math.sqrt(3 * 32 * 9)),
    ],
)
def test_initial_weights_of_a_convolution(init: Init, expected: float) -> None:
    torch.manual_seed(0)
    layer = connector(32, 64, kernel=3, bias=True, init=init)[0]
    assert deviation(layer) == pytest.approx(expected, rel=0.03)
    assert (layer.bias.abs().max() == 0) == (init != "default")


def test_initial_weights_of_linear_layers() -> None:
    torch.manual_seed(0)
    assert deviation(linear(200, 300, init="fan_out")) == pytest.approx(math.sqrt(2 / 300), rel=0.03)
    assert deviation(linear(200, 300, init="trunc_normal")) == pytest.approx(0.02, rel=0.03)
    assert linear(3, 4, bias=False).bias is None
    layers = [layer for layer in mlp(200, [300], 100, init="trunc_normal") if isinstance(layer, nn.Linear)]
    assert [deviation(layer) for layer in layers] == pytest.approx([0.02, 0.02], rel=0.03)


def test_by_default_the_random_numbers_are_torchs() -> None:
    torch.manual_seed(1)
    found = connector(3, 5)[0].weight
    torch.manual_seed(1)
    assert torch.equal(found, nn.Conv2d(3, 5, 1, bias=False).weight)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(1, 1, 7), (3, 1, 7), (2, 2, 3), (3, 3, 2), (1, 2, 4)])
def test_size_of_the_connected_maps(kernel: int, stride: int, size: int) -> None:
    assert connector(2, 4, kernel=kernel, stride=stride)(torch.zeros(2, 2, 7, 7)).shape == (2, 4, size, size)


def test_layers_and_the_names_of_their_weights() -> None:
    """FitNet's regressor and the heads of SimReg and SEED have these names in checkpoints."""
    assert [*connector(2, 3, relu=False).state_dict()][:2] == ["0.weight", "1.weight"]
    assert [type(layer) for layer in connector(2, 3, norm=False)] == [nn.Conv2d, nn.ReLU]
    deep = mlp(4, [5, 6, 7], 8, norm=True, bare=(2,))
    assert [name for name in deep.state_dict() if name.endswith("weight")] == [
        f"{number}.weight" for number in (0, 1, 4, 6, 7, 10)
    ]
    assert [*mlp(4, [5], 6).state_dict()] == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert [*mlp(4, [], 6).state_dict()] == ["0.weight", "0.bias"]
