"""Every `cifar_*` network: the shapes of what it gives, timm's interface, published sizes, RepDistiller's files."""

import argparse
import copy
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from kd_lightning.errors import ConfigError
from kd_lightning.models import Network
from kd_lightning.models.cifar import CifarModel

NAMES = timm.list_models("cifar_*")


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> CifarModel:
    return timm.create_model(request.param, num_classes=7).eval()


def pixels(count: int, side: int) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(side))


def on_meta(name: str, **kwargs: object) -> CifarModel:
    """The network without memory: for shapes and counts."""
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


@torch.no_grad()
@pytest.mark.parametrize("side", [32, 8])
def test_maps_embedding_and_logits_are_those_of_one_forward(model: CifarModel, side: int) -> None:
    x = pixels(2, side)
    final, maps = model.forward_intermediates(x)
    sides = [max(1, side // info["reduction"]) for info in model.feature_info]
    assert [m.shape for m in maps] == [
        (2, info["num_chs"], s, s) for info, s in zip(model.feature_info, sides, strict=True)
    ]
    assert torch.equal(final, model.forward_features(x))
    embedding = model.forward_head(final, pre_logits=True)
    assert embedding.shape == (2, model.head_hidden_size) == (2, model.num_features)
    if type(model).widen is CifarModel.widen:  # no head convolution
        torch.testing.assert_close(embedding, maps[-1].mean((2, 3)))
    logits = model(x)
    assert logits.shape == (2, 7)
    assert torch.equal(logits, model.get_classifier()(embedding))
    assert torch.equal(logits, model(x))
    torch.testing.assert_close(model(x[:1]), logits[:1], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_indices_and_stop_early(model: CifarModel) -> None:
    x = pixels(2, 8)
    final, maps = model.forward_intermediates(x)
    some = model.forward_intermediates(x, indices=[0, 2], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(some, (maps[0], maps[2]), strict=True))
    last = model.forward_intermediates(x, indices=1, norm=True, stop_early=True, intermediates_only=True)
    assert torch.equal(last[0], maps[-1])
    stopped, (second,) = model.forward_intermediates(x, indices=[1], stop_early=True)
    assert torch.equal(stopped, second)
    assert torch.equal(second, maps[1])
    assert torch.equal(model.forward_intermediates(x, indices=[1])[0], final)
    with pytest.raises(ValueError, match="output_fmt: 'NLC'"):
        model.forward_intermediates(x, output_fmt="NLC")


@torch.no_grad()
def test_the_layers_that_feature_info_names_exist(model: CifarModel) -> None:
    assert all(model.get_submodule(info["module"]) is not model for info in model.feature_info)
    assert model.get_submodule(model.pretrained_cfg["first_conv"]).weight.shape[1] == 3
    assert f"{model.pretrained_cfg['classifier']}.weight" in model.state_dict()


def test_the_gradient_reaches_every_parameter(model: CifarModel) -> None:
    trained = copy.deepcopy(model).train()
    trained(pixels(4, 8)).square().sum().backward()
    for name, parameter in trained.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if parameter.ndim > 1:  # biases that a BN follows have none
            assert parameter.grad.any(), name


@torch.no_grad()
def test_bfloat16(model: CifarModel) -> None:
    logits = copy.deepcopy(model).bfloat16()(pixels(1, 8).bfloat16())
    assert logits.dtype == torch.bfloat16
    assert torch.isfinite(logits).all()


def published_scale(name: str, layer: nn.Module, parameter: str) -> float:
    """The root mean square of a layer's first weights or biases in RepDistiller, by its formulas."""
    if isinstance(layer, nn.BatchNorm2d):
        return float(parameter == "weight")
    inputs = layer.weight[0].numel()
    default = (3 * inputs) ** -0.5  # torch's: uniform between plus and minus inputs ** -0.5
    family = name.removeprefix("cifar_").rstrip("0123456789_x").partition("_")[0]
    if isinstance(layer, nn.Linear):
        zero_bias = family in ("wrn", "vgg", "mobilenetv")
        return 0.0 if parameter == "bias" and zero_bias else 0.01 if family in ("vgg", "mobilenetv") else default
    if family == "shufflenetv":
        return default
    return 0.0 if parameter == "bias" else (2 / (layer.kernel_size[0] ** 2 * layer.out_channels)) ** 0.5


@torch.no_grad()
def test_first_weights_are_repdistillers(model: CifarModel) -> None:
    name = model.pretrained_cfg["architecture"]
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]
    for classes in (7, 9):  # a new classifier too
        for layer in layers:
            for parameter, value in layer.named_parameters():
                scale, tolerance = published_scale(name, layer, parameter), 5 / (2 * value.numel()) ** 0.5
                assert value.square().mean().sqrt().item() == pytest.approx(scale, rel=tolerance), (layer, parameter)
        model.reset_classifier(classes + 2)
        layers = [model.get_classifier()]
    model.reset_classifier(7)


@pytest.mark.parametrize("name", NAMES)
def test_it_behaves_as_a_timm_model(name: str) -> None:
    model = on_meta(name, num_classes=5, in_chans=1, drop_rate=0.5).eval()
    final = model.forward_features(torch.zeros(2, 1, 64, 64, device="meta"))
    assert model.forward_head(final).shape == (2, 5)
    with torch.device("meta"):
        model.reset_classifier(9)
    assert (model.num_classes, model.forward_head(final).shape) == (9, (2, 9))
    before = [*model.state_dict()]
    model.reset_classifier(0, "")
    assert [key for key in before if key not in model.state_dict()] == before[-2:]  # weight and bias, the last of all
    assert model.forward_head(final) is final
    model.reset_classifier(0, "avg")
    assert model.forward_head(final).shape == (2, model.num_features)
    with pytest.raises(ValueError, match="global_pool: 'max'"):
        model.reset_classifier(3, "max")
    pyramid = on_meta(name, features_only=True, out_indices=(1, 3))
    assert [m.shape[1] for m in pyramid(torch.zeros(1, 3, 32, 32, device="meta"))] == [*pyramid.feature_info.channels()]


def size(name: str, classes: int) -> int:
    return sum(parameter.numel() for parameter in on_meta(name, num_classes=classes).parameters())


@pytest.mark.parametrize(
    ("name", "classes", "millions"),
    [
        # Zagoruyko & Komodakis 2016, Table 4; Tung & Mori 2019, Table 1
        *[("cifar_wrn_16_1", 10, "0.2"), ("cifar_wrn_16_2", 10, "0.7"), ("cifar_wrn_16_8", 10, "11.0")],
        *[("cifar_wrn_40_1", 10, "0.6"), ("cifar_wrn_40_2", 10, "2.2"), ("cifar_wrn_28_10", 10, "36.5")],
        # RepDistiller's networks as papers that build on it list them
        *[("cifar_vgg8", 100, "3.97"), ("cifar_vgg13", 100, "9.46"), ("cifar_mobilenetv2", 100, "0.81")],
        *[("cifar_shufflenetv1", 100, "0.95"), ("cifar_shufflenetv2", 100, "1.36")],
        # the tables of github.com/weiaicunzai/pytorch-cifar100 and github.com/huyvnphan/PyTorch_CIFAR10
        *[("cifar_resnet50", 100, "23.7"), ("cifar_resnet50", 10, "23.521")],
    ],
)
def test_sizes_are_those_published(name: str, classes: int, millions: str) -> None:
    digits = len(millions.partition(".")[2])
    assert f"{size(name, classes) / 1e6:.{digits}f}" == millions


@pytest.mark.parametrize(
    ("depth", "millions"), [(11, "28.150"), (13, "28.334"), (16, "33.647"), (19, "38.959")]
)  # github.com/huyvnphan/PyTorch_CIFAR10, whose VGGs with BN end in 512-4096-4096-10
def test_vgg_has_the_papers_convolutions(depth: int, millions: str) -> None:
    dense = (512 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 10
    assert f"{(size(f'cifar_vgg{depth}', 0) + dense) / 1e6:.3f}" == millions


def test_wrn_40_2_has_the_size_that_is_reported_of_augmixs() -> None:
    assert size("cifar_wrn_40_2", 100) == 2_255_156


@pytest.mark.parametrize(
    ("name", "imagenet"),  # torchvision's documentation; its 3x3 stem has 576 weights more than the 1x1 one here
    [("_x0_5", 1_366_792), ("", 2_278_604), ("_x1_5", 3_503_624), ("_x2_0", 7_393_996)],
)
def test_shufflenetv2_has_the_papers_widths(name: str, imagenet: int) -> None:
    assert size(f"cifar_shufflenetv2{name}", 1000) == imagenet - 576


# Names and shapes read in RepDistiller's models/*.py for 100 classes, and how many entries its state dicts have.
REPDISTILLER: dict[str, tuple[int, dict[str, tuple[int, ...]]]] = {
    "cifar_wrn_40_2": (
        18 * 12 + 3 + 1 + 5 + 2,
        {
            "conv1.weight": (16, 3, 3, 3),
            "block1.layer.0.bn1.running_mean": (16,),
            "block1.layer.0.convShortcut.weight": (32, 16, 1, 1),
            "block2.layer.5.bn2.weight": (64,),
            "block3.layer.0.conv1.weight": (128, 64, 3, 3),
            "bn1.weight": (128,),
            "fc.weight": (100, 128),
        },
    ),
    "cifar_vgg13": (
        10 * 7 + 2,
        {
            "block0.0.weight": (64, 3, 3, 3),
            "block0.0.bias": (64,),
            "block0.1.running_var": (64,),
            "block2.3.weight": (256, 256, 3, 3),
            "block4.4.weight": (512,),
            "classifier.weight": (100, 512),
        },
    ),
    "cifar_mobilenetv2": (
        17 * 18 + 6 + 6 + 2,
        {
            "conv1.0.weight": (16, 3, 3, 3),
            "blocks.0.0.conv.0.weight": (16, 16, 1, 1),
            "blocks.1.0.conv.3.weight": (48, 1, 3, 3),
            "blocks.5.2.conv.6.weight": (80, 480, 1, 1),
            "blocks.6.0.conv.7.bias": (160,),
            "conv2.0.weight": (1280, 160, 1, 1),
            "conv2.1.weight": (1280,),
            "classifier.0.weight": (100, 1280),
        },
    ),
    "cifar_shufflenetv1": (
        16 * 18 + 6 + 2,
        {
            "conv1.weight": (24, 3, 1, 1),
            "layer1.0.conv1.weight": (54, 24, 1, 1),
            "layer1.0.conv3.weight": (216, 18, 1, 1),
            "layer2.7.conv2.weight": (120, 1, 3, 3),
            "layer3.3.bn3.weight": (960,),
            "linear.weight": (100, 960),
        },
    ),
    "cifar_shufflenetv2": (
        3 * 30 + 13 * 18 + 6 + 6 + 2,
        {
            "conv1.weight": (24, 3, 1, 1),
            "layer1.0.conv1.weight": (24, 1, 3, 3),
            "layer1.0.conv5.weight": (58, 58, 1, 1),
            "layer2.7.conv3.weight": (116, 116, 1, 1),
            "layer3.0.bn2.bias": (232,),
            "conv2.weight": (1024, 464, 1, 1),
            "linear.bias": (100,),
        },
    ),
    "cifar_resnet50": (
        16 * 18 + 4 * 6 + 6 + 2,
        {
            "conv1.weight": (64, 3, 3, 3),
            "layer1.0.shortcut.0.weight": (256, 64, 1, 1),
            "layer2.0.shortcut.1.running_mean": (512,),
            "layer3.5.conv2.weight": (256, 256, 3, 3),
            "layer4.2.bn3.weight": (2048,),
            "linear.weight": (100, 2048),
        },
    ),
}


@pytest.mark.parametrize("name", REPDISTILLER)
def test_parameters_have_repdistillers_names(name: str) -> None:
    entries, some = REPDISTILLER[name]
    state = on_meta(name, num_classes=100).state_dict()
    assert {key: tuple(state[key].shape) for key in some} == some
    assert len(state) == entries


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", ["cifar_wrn_16_1", "cifar_vgg8", *[n for n in REPDISTILLER if "net" in n]])
def test_files_of_repdistillers_form_load(tmp_path: Path, name: str, prefix: str) -> None:
    trained = Network(name, num_classes=100).eval()
    state = {f"{prefix}{key}": value for key, value in trained.model.state_dict().items()}
    path = tmp_path / "ckpt_epoch_240.pth"
    torch.save({"opt": argparse.Namespace(model=name), "epoch": 240, "model": state}, path)
    loaded = Network(name, checkpoint=str(path)).eval()
    assert (loaded.num_classes, loaded.fresh_classifier) == (100, False)
    images = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(loaded(images), trained(images))
    fewer = Network(name, checkpoint=str(path), num_classes=3)
    assert fewer.fresh_classifier
    assert fewer(images.expand(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("cifar_wrn_16_1", {"depth": 18}, "depth: 18 is not 6n \\+ 4; nearest: 16"),
        ("cifar_wrn_16_1", {"widen": 0}, "widen: 0 is below 1; nearest: 1"),
        ("cifar_vgg8", {"depth": 15}, "depth: 15 is unknown; nearest: 1[36]"),
        ("cifar_mobilenetv2", {"width_mult": 0.01}, "width_mult: 0.01 leaves no channel; nearest: 0.0625"),
        ("cifar_mobilenetv2", {"expansion": 0}, "expansion: 0 is below 1; nearest: 1"),
        ("cifar_shufflenetv1", {"groups": 4}, "groups: 4 is unknown; nearest: 3"),
        ("cifar_shufflenetv2", {"size": 1.9}, "size: 1.9 is unknown; nearest: 2.0"),
        ("cifar_resnet50", {"depth": 34}, "depth: 34 is unknown; nearest: 50"),
        ("cifar_resnet20", {"depth": 21}, "depth: 21 is not 6n \\+ 2; nearest: 20"),
        ("cifar_resnet20", {"global_pool": "max"}, "global_pool: 'max'"),
    ],
)
def test_arguments_that_no_network_has_are_refused_with_the_nearest(name: str, kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timm.create_model(name, **kwargs)
    with pytest.raises(ConfigError, match=message):
        Network(name, model_kwargs=kwargs)
