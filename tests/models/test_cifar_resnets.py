"""The CIFAR ResNets: sizes of the literature, both shortcuts, and the checkpoints people have of them."""

import argparse
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.models import Network
from kd_lightning.models.cifar import BasicBlock


@pytest.mark.parametrize(
    ("name", "classes", "kwargs", "parameters"),
    [
        ("cifar_resnet20", 10, {}, 269_722),  # He et al. 2016, Table 6: 0.27 M
        ("cifar_resnet32", 10, {}, 464_154),  # 0.46 M
        ("cifar_resnet44", 10, {}, 658_586),  # 0.66 M
        ("cifar_resnet56", 10, {}, 853_018),  # 0.85 M
        ("cifar_resnet110", 10, {}, 1_727_962),  # 1.7 M
        ("cifar_resnet56", 100, {"shortcut": "B"}, 861_620),  # RepDistiller's resnet56
        ("cifar_resnet8x4", 100, {}, 1_233_540),  # RepDistiller's, 1.23 M
        ("cifar_resnet32x4", 100, {}, 7_433_860),  # 7.43 M
    ],
)
def test_sizes_are_those_of_the_literature(name: str, classes: int, kwargs: dict, parameters: int) -> None:
    model = timm.create_model(name, num_classes=classes, **kwargs)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert [info["num_chs"] for info in model.feature_info][-1] == model.num_features
    x = torch.zeros(2, 3, 32, 32)
    maps = model.forward_intermediates(x, indices=4, intermediates_only=True)
    assert [m.shape[2] for m in maps] == [32, 32, 16, 8]
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]


def test_shortcut_a_subsamples_and_pads_with_zero_channels() -> None:
    block, x = BasicBlock(4, 10, 2, "A").eval(), torch.randn(2, 4, 6, 6)
    expected = torch.zeros(2, 10, 3, 3)
    for channel in range(4):
        expected[:, channel + 3] = x[:, channel, ::2, ::2]
    assert torch.equal(block.shortcut(x), expected)
    assert block.downsample is None
    inner = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    torch.testing.assert_close(block(x), F.relu(inner + expected))


def repdistiller_file(path: Path, network: Network, prefix: str = "") -> Path:
    """A teacher's file as RepDistiller and mdistiller write it."""
    state = {f"{prefix}{name}": value for name, value in network.model.state_dict().items()}
    assert any(name.endswith("layer2.0.downsample.0.weight") for name in state)
    content = {"opt": argparse.Namespace(model="resnet", lr=0.05), "epoch": 240, "model": state}
    torch.save({**content, "accuracy": torch.tensor(79.4), "optimizer": {"param_groups": [{"lr": 0.1}]}}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("name", "kwargs"), [("cifar_resnet8x4", {}), ("cifar_resnet32x4", {}), ("cifar_resnet20", {"shortcut": "B"})]
)
def test_files_of_repdistillers_form_load(tmp_path: Path, name: str, kwargs: dict, prefix: str) -> None:
    trained = Network(name, num_classes=100, model_kwargs=kwargs).eval()
    path = repdistiller_file(tmp_path / "ckpt_epoch_240.pth", trained, prefix)
    loaded = Network(name, checkpoint=str(path), model_kwargs=kwargs).eval()
    assert loaded.num_classes == 100
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(loaded(images), trained(images))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("resnet56_cifar10_jpeg.safetensors", "cifar_resnet56"),
        ("resnet56-4bfd9763.th", "cifar_resnet56"),
        ("resnet20-12fca82f.th", "cifar_resnet20"),
    ],
)
def test_the_real_files_load(shared: Path, file: str, name: str) -> None:
    network = Network(name, checkpoint=str(shared / "weights" / file)).eval()
    assert (network.num_classes, network.fresh_classifier) == (10, False)
    seen = network.features(torch.zeros(1, 3, 32, 32), maps=3, embedding=True, logits=True)
    assert [tuple(m.shape[1:]) for m in seen.maps] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert seen.embedding.shape == (1, 64)
    assert F.softmax(seen.logits, 1).max() > 0.2  # a black square is something to a trained network


def one_step(model: torch.nn.Module, x: Tensor) -> Tensor:
    return model.forward_head(model.forward_features(x), pre_logits=True)


def test_it_behaves_as_a_timm_model() -> None:
    model = timm.create_model("cifar_resnet8", num_classes=3, drop_rate=0.5, in_chans=1)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 3)
    assert one_step(model, torch.zeros(2, 1, 32, 32)).shape == (2, model.head_hidden_size)
    model.reset_classifier(5)
    assert model.get_classifier().out_features == 5
    assert {"cifar_resnet20", "cifar_resnet32x4"} <= {*timm.list_models("cifar_*")}
    assert "cifar_resnet20.digits" in timm.list_pretrained("cifar_*")
