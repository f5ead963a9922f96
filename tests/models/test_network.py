"""Network: its own normalisation, features without hooks, what it computes and what it says of itself."""

from pathlib import Path
from unittest.mock import patch

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import normalize, resize

from kd_lightning.errors import ConfigError
from kd_lightning.models import Network, checkpoints

TINY_VIT = {"img_size": 32, "patch_size": 4, "depth": 3}
MODELS = {
    "resnet18": {},
    "cifar_resnet8": {},
    "cifar_resnet8x4": {},
    "cifar_wrn_16_1": {},
    "cifar_vgg8": {},
    "cifar_mobilenetv2": {},
    "cifar_shufflenetv2_x0_5": {},
    "vit_tiny_patch16_224": TINY_VIT,
    "deit_tiny_distilled_patch16_224": TINY_VIT,
    "tf_efficientnet_lite0": {},
    "convnext_atto": {},
    "mobilenetv3_small_050": {},
}


def images(count: int = 3, side: int = 32) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=MODELS)
def network(request: pytest.FixtureRequest) -> Network:
    return Network(request.param, num_classes=7, model_kwargs=MODELS[request.param]).eval()


@torch.no_grad()
def test_features_are_what_the_model_computes(network: Network) -> None:
    seen = network.features(images(), maps=2, tokens=True, embedding=True, logits=True)
    torch.testing.assert_close(seen.logits, network(images()))
    assert seen.logits.shape == (3, 7)
    assert seen.embedding.shape == (3, network.embedding_width)
    assert [m.ndim for m in seen.maps] == [4, 4]
    inner = network.model.forward_features(network.normalize(images()))
    torch.testing.assert_close(seen.embedding, network.model.forward_head(inner, pre_logits=True))
    has_tokens = inner.ndim == 3
    assert (seen.tokens is not None) == has_tokens
    if has_tokens:
        torch.testing.assert_close(seen.tokens, inner)
        prefix = network.model.num_prefix_tokens  # patch tokens, normalised, as a grid
        torch.testing.assert_close(seen.maps[-1].flatten(2).transpose(1, 2), seen.tokens[:, prefix:])
    for alone, wanted in ((0, {"embedding": True}), (1, {}), (2, {"logits": True})):
        again = network.features(images(), maps=alone, **wanted)
        assert len(again.maps) == alone
        assert all(torch.equal(a, b) for a, b in zip(again.maps, seen.maps[2 - alone :], strict=True))
        assert again.tokens is None
        assert (again.embedding is None) == ("embedding" not in wanted)
        assert (again.logits is None) == ("logits" not in wanted)


@torch.no_grad()
def test_maps_are_the_outputs_of_the_last_stages() -> None:
    network, caught = Network("resnet18", num_classes=7).eval(), []
    for layer in (network.model.layer3, network.model.layer4):
        layer.register_forward_hook(lambda module, inputs, output: caught.append(output))
    maps = network.features(images(), maps=2).maps
    assert all(torch.equal(a, b) for a, b in zip(maps, caught, strict=True))


def test_only_what_is_asked_for_is_computed(network: Network) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("computed in vain")

    with patch.object(type(network.model), "forward_head", never):
        network.features(images(), maps=1)
    with patch.object(type(network.model), "forward_intermediates", never):
        network.features(images(), embedding=True, logits=True)
        assert network.features(images(), logits=True).maps == []
    if isinstance(network.model.get_classifier(), nn.Linear):
        with patch.object(network.model.get_classifier(), "forward", never):
            network.features(images(), maps=1, embedding=True)


@torch.no_grad()
def test_it_normalises_its_own_input() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    network = Network("cifar_resnet8", mean=mean, std=std).eval()
    expected = normalize(images().float() / 255, list(mean), list(std))
    torch.testing.assert_close(network.normalize(images()), expected)
    torch.testing.assert_close(network(images()), network.model(expected))
    torch.testing.assert_close(network(images()), network(images().float() / 255))
    lite, known = Network("tf_efficientnet_lite0"), timm.get_pretrained_cfg("tf_efficientnet_lite0")
    assert lite.mean.flatten().tolist() == pytest.approx([*known.mean])
    assert lite.std.flatten().tolist() == pytest.approx([*known.std])
    assert [*known.mean] != [*Network("resnet18").model.pretrained_cfg["mean"]]  # no default of timm's


@torch.no_grad()
def test_it_resizes_to_the_size_it_has() -> None:
    for network, mode in (
        (Network("cifar_resnet8", size=48), InterpolationMode.BILINEAR),
        (Network("vit_tiny_patch16_224", model_kwargs={**TINY_VIT, "img_size": 48}), InterpolationMode.BICUBIC),
    ):
        assert network.size == 48
        plain = resize(images().float() / 255, [48, 48], interpolation=mode, antialias=True).clamp(0, 1)
        expected = normalize(plain, network.mean.flatten().tolist(), network.std.flatten().tolist())
        torch.testing.assert_close(network.normalize(images()), expected, atol=1e-4, rtol=1e-4)
        assert network(images()).shape == network(images(side=64)).shape
    assert Network("resnet18").size is None
    assert Network("vit_tiny_patch16_224", model_kwargs={"depth": 1}).size == 224


def test_a_frozen_network_is_a_constant() -> None:
    network = Network("cifar_resnet8").freeze()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    nn.Sequential(network).train()
    network(images())
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_macs_and_parameters_are_counted() -> None:
    network = Network("cifar_resnet8", num_classes=10).train()
    side, macs = 32, 3 * 16 * 9 * 32**2 + 2 * 16 * 16 * 9 * 32**2
    macs += (16 * 32 + 32 * 32) * 9 * 16**2 + (32 * 64 + 64 * 64) * 9 * 8**2 + 64 * 10
    assert network.macs(side) == macs
    assert network.training
    assert network.parameter_count() == sum(p.numel() for p in network.model.parameters())


def test_loading_weights_costs_no_random_numbers(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    fresh = Network("cifar_resnet8")
    checkpoints.write(path, fresh.model.state_dict(), fresh.facts())
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    Network("cifar_resnet8", checkpoint=str(path))
    Network("cifar_resnet20.digits", pretrained=True)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(0)
    Network("cifar_resnet8")
    assert not torch.equal(torch.rand(3), expected)


def test_whose_classifier_it_has(tmp_path: Path) -> None:
    path = str(tmp_path / "seven.safetensors")
    seven = Network("cifar_resnet8", num_classes=7)
    checkpoints.write(Path(path), seven.model.state_dict(), seven.facts())
    for network, classes, has_weights, fresh in (
        (seven, 7, False, True),
        (Network("cifar_resnet8", checkpoint=path), 7, True, False),
        (Network("cifar_resnet8", checkpoint=path, num_classes=7), 7, True, False),
        (Network("cifar_resnet8", checkpoint=path, num_classes=4), 4, True, True),
        (Network("cifar_resnet20.digits", pretrained=True), 10, True, False),
        (Network("cifar_resnet20.digits", pretrained=True, num_classes=4), 4, True, True),
        (Network("cifar_resnet8", num_classes=0), 0, False, True),
    ):
        assert (network.num_classes, network.has_weights, network.fresh_classifier) == (classes, has_weights, fresh)
        assert network(images()).shape == (3, classes or network.embedding_width)
    loaded = Network("cifar_resnet8", checkpoint=path, num_classes=4).model
    assert torch.equal(loaded.layer3[0].conv1.weight, seven.model.layer3[0].conv1.weight)


def test_a_file_brings_mean_std_and_size_along(tmp_path: Path) -> None:
    trained = Network("cifar_resnet8", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), size=24).eval()
    checkpoints.write(tmp_path / "a.safetensors", trained.model.state_dict(), trained.facts())
    state = {f"student.model.{name}": value for name, value in trained.model.state_dict().items()}
    torch.save({"state_dict": state, "network": trained.facts()}, tmp_path / "b.ckpt")
    for name in ("a.safetensors", "b.ckpt"):
        again = Network("cifar_resnet8", checkpoint=str(tmp_path / name)).eval()
        assert again.facts() == trained.facts()
        assert torch.equal(again(images()), trained(images()))
    assert Network("cifar_resnet8", checkpoint=str(tmp_path / "a.safetensors"), size=32).size == 32


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"name": "resnet81"}, ["resnet81", "nearest", "resnet18"]),
        ({"name": "resnet18.nonsense"}, ["resnet18.nonsense", "nearest: resnet18."]),
        ({"name": "cifar_resnet8", "model_kwargs": {"widht": 3}}, ["cifar_resnet8", "model_kwargs", "widht"]),
        ({"name": "cifar_resnet8", "model_kwargs": {"shortcut": "C"}}, ["shortcut", "'C'", "A, B"]),
        ({"name": "cifar_resnet8", "model_kwargs": {"depth": 9}}, ["depth", "9", "nearest: 8"]),
        ({"name": "cifar_resnet8", "pretrained": True, "checkpoint": "x"}, ["pretrained", "checkpoint"]),
        ({"name": "cifar_resnet8", "num_classes": -1}, ["num_classes", "-1"]),
        ({"name": "cifar_resnet8", "size": 0}, ["size", "0"]),
    ],
)
def test_refusals_are_one_line(kwargs: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        Network(**kwargs)
    assert "\n" not in str(refused.value)
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.02), ("float16", 0.003), ("float32", 0.0)])
def test_a_dtype_of_its_own_is_half_the_memory_and_nearly_the_same(dtype: str, most: float) -> None:
    plain = Network("cifar_resnet20.digits", pretrained=True).freeze()
    low = Network("cifar_resnet20.digits", pretrained=True, dtype=dtype).freeze()
    images = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8)
    wanted = {"maps": 2, "embedding": True, "logits": True}
    expected = plain.features(images, **wanted)
    for autocast in (False, True):  # whatever the rest of the run computes in
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            seen, logits = low.features(images, **wanted), low(images)
        for ours, theirs in zip(
            [*seen.maps, seen.embedding, seen.logits, logits],
            [*expected.maps, expected.embedding, expected.logits, expected.logits],
            strict=True,
        ):
            assert ours.dtype == torch.float32
            assert (ours - theirs).norm() <= most * theirs.norm()
    weights = [sum(p.nbytes for p in network.parameters()) for network in (plain, low)]
    assert weights[1] == weights[0] * getattr(torch, dtype).itemsize // 4
