"""FitNet: golden value, regressor, feature maps of different sizes, and training without labels."""

import pytest
import torch
from helpers.factories import digits, method, student, trainer
from helpers.golden import student as ours
from helpers.golden import teacher as theirs
from torch import nn

from kd_lightning.errors import ConfigError
from kd_lightning.functional import match_spatial
from kd_lightning.methods import FitNet
from kd_lightning.methods.fitnet import hint_loss
from kd_lightning.models import Network, Reads


def test_golden_value() -> None:
    assert hint_loss(ours(6, 5), theirs(6, 5)).item() == pytest.approx(1.0190262112, abs=1e-9)


def test_the_regressor_fits_the_chosen_stage() -> None:
    for layer, (narrow, wide) in {1: (16, 64), 2: (8, 32), 3: (4, 16)}.items():
        built = method(FitNet, layer=layer)
        convolution = built.regressor[0]
        assert (convolution.in_channels, convolution.out_channels) == (narrow, wide)
        images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        mapped = built.regressor(built.student.features(images, maps=layer).maps[0])
        assert mapped.shape == built.teacher_features(images, Reads(maps=layer)).maps[0].shape
        assert mapped.min() >= 0
    assert [type(layer) for layer in method(FitNet, relu=False).regressor] == [nn.Conv2d, nn.BatchNorm2d]


@pytest.mark.parametrize(
    ("name", "channels"),  # of f2 in RepDistiller, whose hint_layer is 2; f0 is the stem, or the first stage of a VGG
    [
        *[("cifar_vgg8", 256), ("cifar_mobilenetv2", 16), ("cifar_resnet50", 512), ("resnet18", 128)],
        *[("cifar_resnet8", 32), ("cifar_wrn_16_1", 32), ("cifar_shufflenetv1", 480)],
    ],
)
def test_the_layer_by_default_is_repdistillers(name: str, channels: int) -> None:
    with torch.device("meta"):
        networks = [Network(name, num_classes=10) for _ in range(2)]
    networks[0].has_weights = True
    built = FitNet(teacher=networks[0], student=networks[1])
    assert built.regressor[0].in_channels == built.regressor[0].out_channels == channels
    assert networks[0].model.feature_info[2]["num_chs"] == channels
    assert built.reads == Reads(maps=len(networks[0].model.feature_info) - 2)


def test_a_vision_transformer_is_pooled_to_the_teachers_grid() -> None:
    small = {"img_size": 8, "patch_size": 1, "depth": 3, "num_heads": 2, "embed_dim": 16}
    built = method(FitNet, student=Network("vit_tiny_patch16_224", num_classes=10, model_kwargs=small), layer=1)
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    mapped, target = (
        built.student.features(images, maps=1).maps[0],
        built.teacher_features(images, Reads(maps=1)).maps[0],
    )
    assert (mapped.shape[-1], target.shape[-1]) == (8, 2)
    pooled, same = match_spatial(mapped, target)
    assert same is target
    assert pooled.shape[-2:] == (2, 2)
    torch.testing.assert_close(pooled[:, :, 0, 0], mapped[:, :, :4, :4].mean(dim=(2, 3)))


def test_the_hint_is_learnt(tmp_path: object) -> None:
    built = method(FitNet, student=student())
    hints = []
    built.log_dict = lambda found, **kwargs: hints.append(found["train/fitnet"].item())
    run = trainer(tmp_path, max_epochs=12)
    run.fit(built, digits())
    assert sum(hints[-4:]) < 0.7 * sum(hints[:4])
    assert not any(name.startswith("regressor") for name in built.student.state_dict())


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="layer: 2 is given, but without labels"):
        method(FitNet, ce_weight=0)
    assert method(FitNet, ce_weight=0, layer=1).needs_labels is False
    with pytest.raises(ConfigError, match="layer: 0 is given, but cifar_resnet8 has 4 stages; choose 1 to 4"):
        method(FitNet, layer=0)
