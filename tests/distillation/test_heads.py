"""Heads on stages: shapes for maps of CNNs and ViTs, stages, and initial weights."""

import pytest
import torch
from helpers.factories import student
from torch import nn

from kd_lightning.distillation.heads import bottleneck_head, convolutional_head, heads_on, stages_with_heads
from kd_lightning.models import Network

VIT = {"img_size": 32, "patch_size": 8, "depth": 12, "num_heads": 2, "embed_dim": 16}


def vit() -> Network:
    return Network("vit_tiny_patch16_224", num_classes=10, model_kwargs=VIT)


@pytest.mark.parametrize("make", [student, vit])
def test_a_head_classifies_the_maps_of_a_stage(make: object) -> None:
    network, images = make(), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    stages = stages_with_heads(None, network)
    reductions = []

    def head(channels: int, reduction: int) -> nn.Module:
        reductions.append(reduction)
        return bottleneck_head(channels, 7, width=12, reduction=reduction)

    for heads in (heads_on(network, stages, head), heads_on(network, stages, lambda c, _: convolutional_head(c, 7))):
        for number in stages:
            maps = network.features(images, maps=stages[0]).maps
            assert heads[str(number)](maps[-number]).shape == (2, 7)
    assert reductions == ([4, 2] if len(stages) == 2 else [1, 1, 1])


def test_the_layers_are_the_papers() -> None:
    """Of third-party code for MHKD; of the released code for BYOT."""
    leaves = [type(layer) for layer in convolutional_head(3, 7).modules() if not [*layer.children()]]
    block = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert leaves == [*block, *block, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    head = bottleneck_head(6, 7, width=16, reduction=4)
    convolutions = [layer for layer in head.modules() if isinstance(layer, nn.Conv2d)]
    shapes = [(each.in_channels, each.out_channels, each.kernel_size[0], each.stride[0]) for each in convolutions]
    assert shapes == [(6, 4, 1, 1), (4, 4, 4, 4), (4, 16, 1, 1)]
    assert head.classifier.weight.shape == (7, 16)


def test_padding_does_not_change_a_map_that_the_stride_divides() -> None:
    torch.manual_seed(0)
    head, maps = bottleneck_head(3, 7, width=8, reduction=2).eval(), torch.randn(2, 3, 6, 4)
    layers = [*head.embed]
    expected = layers[2](layers[1](layers[0](maps))).mean(dim=(2, 3))
    assert torch.equal(head.embed(maps), expected)
    assert head(maps[:, :, :5, :3]).shape == (2, 7)


def test_initial_weights_can_be_chosen() -> None:
    torch.manual_seed(0)
    head = bottleneck_head(64, 100, width=256, reduction=2, init="trunc_normal")
    for layer in head.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert head.classifier.bias.abs().max() == 0


@pytest.mark.parametrize(
    ("names", "stages"),
    [(["cifar_resnet20"], [3, 2]), (["cifar_vgg8"], [4, 3, 2]), (["resnet18", "cifar_resnet20"], [3, 2])],
)
def test_stages_by_default(names: list[str], stages: list[int]) -> None:
    with torch.device("meta"):
        networks = [Network(name, num_classes=10) for name in names]
    assert stages_with_heads(None, *networks) == stages
    assert stages_with_heads((2, 3), *networks) == [3, 2]
