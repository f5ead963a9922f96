"""Sizes of networks as they were built, arguments of models that belong to other fields, widths of embeddings."""

import pytest
import torch
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.models import Network, checkpoints

# small networks that take img_size
SIZED = "gmlp_ti16_224 hiera_tiny_224 levit_128s mixer_s32_224 mvitv2_tiny visformer_tiny volo_d1_224".split()
OTHER_SIZED = """
beit_base_patch16_224 cait_xxs24_224 coat_lite_mini coatnet_nano_rw_224 convit_tiny crossvit_tiny_240
deit_tiny_distilled_patch16_224 efficientformerv2_s0 efficientvit_m0 eva02_tiny_patch14_224 gcvit_xxtiny
maxvit_pico_rw_256 maxxvit_rmlp_nano_rw_256 naflexvit_base_patch16_gap nest_tiny pit_ti_distilled_224 resmlp_12_224
swiftformer_xs swin_s3_tiny_224 swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window8_256 test_vit
test_vit_relpos tnt_s_patch16_224 twins_svt_small xcit_nano_12_p8_224
""".split()


def images(side: int = 32) -> Tensor:
    return torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("name", [*SIZED, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHER_SIZED)])
def test_a_network_has_the_size_for_which_it_was_built(name: str) -> None:
    side = {"eva02_tiny_patch14_224": 56, "crossvit_tiny_240": 120}.get(name, 64)
    with torch.device("meta"):
        network = Network(name, num_classes=3, model_kwargs={"img_size": side}).eval()
        assert network.size == side
        for given in (32, 64, 80):
            assert network(torch.zeros(2, 3, given, given)).shape == (2, 3)


def test_another_size_than_that_of_the_network_is_refused() -> None:
    for name, kwargs in (("vit_tiny_patch16_224", {"depth": 1}), ("visformer_tiny", {})):
        with (
            torch.device("meta"),
            pytest.raises(ConfigError, match=r"size is 48, but .* images of 64 pixels; set model_"),
        ):
            Network(name, size=48, model_kwargs={**kwargs, "img_size": 64})


def test_the_size_of_a_file_is_not_that_of_a_network_built_otherwise(tmp_path) -> None:
    kwargs = {"depth": 1, "dynamic_img_size": True}
    trained = Network("test_vit", num_classes=3, size=32, model_kwargs=kwargs)
    checkpoints.write(tmp_path / "file.safetensors", trained.model.state_dict(), trained.facts())
    given = {"name": "test_vit", "checkpoint": str(tmp_path / "file.safetensors")}
    assert Network(**given, model_kwargs=kwargs).size == 32
    assert Network(**given, model_kwargs={"depth": 1, "img_size": 160}).size == 160
    assert Network("vit_tiny_patch16_224", model_kwargs=kwargs).size is None  # it accepts any size


@pytest.mark.parametrize("size", [[32, 64], "32", 0, -8, 32.0, True, 10**6, [32, 32, 32], None])
def test_img_size_is_one_whole_number(size: object) -> None:
    given = {"name": "vit_tiny_patch16_224", "num_classes": 2, "model_kwargs": {"depth": 1, "img_size": size}}
    if size is None:
        assert Network(**given).size == 224
        return
    if size == [32, 32, 32]:
        given["model_kwargs"]["img_size"] = [32, 32]
        assert Network(**given).size == 32
        return
    with pytest.raises(ConfigError, match="img_size") as refused:
        Network(**given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"in_chans": 1}, ["in_chans is 1", "3 channels"]),
        ({"num_classes": 7}, ["num_classes is 7", "num_classes of the network"]),
        ({"num_classes": 0}, ["num_classes is 0"]),
        ({"global_pool": ""}, ["global_pool is ''", "avg"]),
        ({"global_pool": False}, ["global_pool is False"]),
        ({"features_only": True}, ["features_only is True", "remove it"]),
        ({"out_indices": [1, 2]}, ["out_indices", "remove it"]),
        ({"pretrained": True}, ["pretrained is True", "pretrained of the network"]),
        ({"checkpoint_path": "x.pth"}, ["checkpoint_path", "checkpoint of the network"]),
        ({"pretrained_cfg": {"file": "x.pth"}}, ["pretrained_cfg", "checkpoint of the network"]),
        ({"pretrained_cfg_overlay": {"file": "x.pth"}}, ["pretrained_cfg_overlay"]),
        ({"global_pool": "best"}, ["global_pool", "best"]),
        ({"drop_rate": 2.0}, ["drop_rate is 2.0", "at least 0 and below 1"]),
        ({"drop_path_rate": -0.1}, ["drop_path_rate is -0.1"]),
        ({"drop_path_rate": "high"}, ["drop_path_rate is 'high'"]),
    ],
)
@pytest.mark.parametrize("name", ["cifar_resnet8", "test_vit", "test_convnext"])
def test_arguments_that_are_refused_by_name(name: str, kwargs: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        Network(name, num_classes=10, model_kwargs=kwargs)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"{name}: ")
    assert all(word in str(refused.value) for word in words), refused.value


def test_arguments_that_change_nothing_are_accepted() -> None:
    kwargs = {"in_chans": 3, "features_only": False, "global_pool": "avg"}
    assert Network("test_convnext", num_classes=3, model_kwargs=kwargs)(images()).shape == (2, 3)


def test_encoders_without_a_classifier_are_refused() -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=r"without a classifier .*; choose another network$"):
        Network("qwen3_vit_88m_enc")


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_byobnet"])
def test_pooling_that_doubles_the_width(name: str) -> None:
    network = Network(name, num_classes=3, model_kwargs={"global_pool": "catavgmax"}).eval()
    assert network.features(images(), embedding=True).embedding.shape == (2, network.embedding_width)


@pytest.mark.parametrize("name", ["cait_xxs24_224", "pit_ti_distilled_224"])
def test_multiply_adds_of_networks_whose_tokens_are_parameters(name: str) -> None:
    network = Network(name, num_classes=3, model_kwargs={"img_size": 32})
    trainable = {key for key, value in network.named_parameters() if value.requires_grad}
    frozen = next(network.parameters())
    frozen.requires_grad_(False)
    assert network.macs(32) > 1e5
    assert not frozen.requires_grad
    frozen.requires_grad_(True)
    assert {key for key, value in network.named_parameters() if value.requires_grad} == trainable
    assert network.training


def test_multiply_adds_that_cannot_be_counted_end_no_run() -> None:
    network = Network("convnext_atto", num_classes=3)
    assert network.macs(8) is None
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "kwargs", "line"),
    [
        (
            "cifar_resnet8",
            {"shortcuts": "B"},
            "model_kwargs.shortcuts is not an argument of this network; nearest: s",
        ),
        (
            "cifar_wrn_16_1",
            {"droprate": 0.1},
            "model_kwargs.droprate is not an argument of this network; nearest: d",
        ),
        ("cifar_resnet8", {"shortcut": "C"}, "model_kwargs.shortcut: 'C' is unknown; choices: A, B"),
        ("cifar_resnet8", {"channels": 3}, "the network does not accept model_kwargs {'channels': 3}: "),
        ("resnet10t", {"shortcut": "C"}, "model_kwargs.shortcut is not an argument of this network"),
        ("resnet10t", {"channels": 3}, "timm does not accept model_kwargs {'channels': 3}: "),
    ],
)
def test_a_wrong_argument_is_named_with_its_network_and_timm_only_for_networks_of_timm(
    name: str, kwargs: dict[str, object], line: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        Network(name, num_classes=10, model_kwargs=kwargs)
    assert str(refused.value).startswith(f"{name}: {line}")
    assert "num_classes" not in str(refused.value)
