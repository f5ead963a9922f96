"""The linear classifier of a network: its weight and bias, logits of vectors, class maps of maps."""

import pytest
import torch
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.models import Network

TINY_VIT = {"img_size": 32, "patch_size": 8, "depth": 1}
SWIN = {"img_size": 32, "window_size": 4, "depths": (1, 1, 1, 1)}
POOLED = {
    "cifar_resnet8": {},
    "cifar_vgg8": {},
    "cifar_wrn_16_1": {"activated": True},
    "resnet18": {},
    "resnetv2_18": {},
    "swin_tiny_patch4_window7_224": SWIN,
}
VECTORS = {
    "cifar_mobilenetv2": {},
    "convnext_atto": {},
    "tf_efficientnet_lite0": {},
    "mobilenetv3_small_050": {},
    "vit_tiny_patch16_224": TINY_VIT,
}


def images(count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def build(name: str, **kwargs: object) -> Network:
    torch.manual_seed(0)
    return Network(name, num_classes=5, **kwargs).eval()


@pytest.mark.parametrize("name", [*POOLED, *VECTORS])
def test_vectors_give_the_logits(name: str) -> None:
    network = build(name, model_kwargs={**POOLED, **VECTORS}[name])
    seen = network.features(images(), embedding=True, logits=True)
    weight, bias = network.classifier
    assert (weight.shape, bias.shape) == ((5, network.embedding_width), (5,))
    torch.testing.assert_close(network.classify(seen.embedding), seen.logits)
    torch.testing.assert_close(seen.embedding @ weight.T + bias, seen.logits)
    weight.sum().backward()
    assert any(p.grad is not None for p in network.model.get_classifier().parameters())


@pytest.mark.parametrize("name", POOLED)
def test_class_maps_have_the_logits_as_mean(name: str) -> None:
    network = build(name, model_kwargs=POOLED[name]).train()
    modes = [module.training for module in network.modules()]
    statistics = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        network.classify(torch.zeros(1, network.embedding_width, 2, 2))
    assert [module.training for module in network.modules()] == modes  # the one pass leaves nothing behind
    assert all(torch.equal(value, statistics[key]) for key, value in network.state_dict().items())
    seen = network.eval().features(images(), maps=1, logits=True)
    maps = network.classify(seen.maps[-1])
    assert maps.shape == (2, 5, *seen.maps[-1].shape[2:])
    torch.testing.assert_close(maps.mean((2, 3)), seen.logits, atol=1e-5, rtol=1e-4)
    weight, bias = network.classifier
    expected = torch.einsum("kd,ndhw->nkhw", weight, seen.maps[-1]) + bias[:, None, None]
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-4)


def test_a_head_convolutions_output_and_patch_tokens_are_classified() -> None:
    network = build("cifar_mobilenetv2")
    pooled = network.model.forward_features(network.normalize(images()))
    torch.testing.assert_close(network.classify(pooled).mean((2, 3)), network(images()), atol=1e-5, rtol=1e-4)
    vit = build("vit_tiny_patch16_224", model_kwargs=TINY_VIT)
    seen = vit.features(images(), maps=1, tokens=True)
    maps = vit.classify(seen.maps[-1])
    torch.testing.assert_close(maps.flatten(2).mT, vit.classify(seen.tokens[:, 1:].flatten(0, 1)).view(2, 16, 5))


def test_a_classifier_without_bias_and_a_dtype_of_its_own() -> None:
    network = build("cifar_resnet8")
    network.model.fc = torch.nn.Linear(64, 5, bias=False)
    assert network.classifier[1] is None
    assert network.classify(torch.ones(2, 64, 3, 3)).shape == (2, 5, 3, 3)
    low = build("cifar_resnet8", dtype="bfloat16")
    assert [part.dtype for part in low.classifier] == [torch.float32] * 2
    seen = low.features(images(), maps=1, embedding=True, logits=True)
    assert low.classify(seen.embedding).dtype == low.classify(seen.maps[-1]).dtype == torch.float32
    torch.testing.assert_close(low.classify(seen.embedding), seen.logits)


@pytest.mark.parametrize(
    ("name", "kwargs", "words"),
    [
        ("cifar_resnet8", {"num_classes": 0}, ["no classifier", "num_classes is 0"]),
        ("vit_tiny_patch16_224", {"num_classes": 0, "model_kwargs": TINY_VIT}, ["no classifier"]),
        ("deit_tiny_distilled_patch16_224", {"model_kwargs": TINY_VIT}, ["2 classifiers"]),
        ("caformer_s18", {}, ["MlpHead", "linear"]),
    ],
)
def test_networks_without_one_linear_classifier(name: str, kwargs: dict, words: list[str]) -> None:
    network = Network(name, **{"num_classes": 5, **kwargs})
    for refused in (lambda: network.classifier, lambda: network.classify(torch.zeros(1, network.embedding_width))):
        with pytest.raises(ConfigError) as error:
            refused()
        assert "\n" not in str(error.value)
        assert all(word in str(error.value) for word in [name, *words])


@pytest.mark.parametrize(
    ("name", "kwargs", "shape", "words"),
    [
        ("cifar_resnet8", {}, (2, 64, 3), ["vectors N,D or maps", "(2, 64, 3)"]),
        ("cifar_resnet8", {}, (2, 63), ["reads 64", "has 63"]),
        ("cifar_mobilenetv2", {}, (2, 160, 2, 2), ["reads 1280", "has 160", "head convolution"]),
        ("convnext_atto", {}, (2, 320, 2, 2), ["no class maps"]),  # a norm after pooling
        ("cifar_wrn_16_1", {}, (2, 64, 2, 2), ["no class maps", "{activated: true}"]),  # a norm before pooling
        ("vit_tiny_patch16_224", {**TINY_VIT, "global_pool": "avg"}, (2, 192, 4, 4), ["no class maps"]),
        ("test_nfnet", {}, (2, 192, 2, 2), ["no class maps"]),  # an activation before pooling
    ],
)
def test_what_cannot_be_classified(name: str, kwargs: dict, shape: tuple[int, ...], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        build(name, model_kwargs=kwargs).classify(torch.zeros(shape))
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in [name, *words])
