"""CATKD: golden values, invariances, class maps without bias, head convolutions, and refusals."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import golden
from helpers.factories import digits, method, shared_teacher, student, trainer, with_weights
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation.class_maps import pooled_map
from kd_lightning.errors import ConfigError
from kd_lightning.methods import CATKD
from kd_lightning.methods.cat_kd import class_activation_loss
from kd_lightning.models import Network


@pytest.mark.parametrize(
    ("normalize", "value", "norm"), [(False, 0.2775137326, 0.083293717), (True, 0.5282176045, 0.10258472)]
)
def test_golden_values(normalize: bool, value: float, norm: float) -> None:
    def loss(maps: Tensor) -> Tensor:
        return class_activation_loss(maps, golden.teacher_maps(2, 5, 7, 7), normalize=normalize)

    golden.check(loss, (golden.student_maps(2, 5, 4, 4),), value, norm)


def test_invariances() -> None:
    student, teacher = golden.student_maps(2, 5, 4, 4), golden.teacher_maps(2, 5, 8, 8)
    expected = class_activation_loss(student, teacher, normalize=True)
    torch.testing.assert_close(class_activation_loss(7 * student, teacher, normalize=True), expected)
    assert class_activation_loss(7 * student, teacher) > class_activation_loss(student, teacher)
    assert class_activation_loss(teacher, teacher) == 0
    within = student.unflatten(2, (2, 2)).flip(3).flatten(2, 3)  # the rows of each of the four places are exchanged
    torch.testing.assert_close(class_activation_loss(within, teacher), class_activation_loss(student, teacher))
    assert class_activation_loss(student, teacher, size=4) > class_activation_loss(student, teacher)


def batch(side: int = 16, count: int = 4) -> Batch:
    rows = torch.arange(count)
    images = torch.randint(
        0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return Batch(images, rows, rows, rows)


def test_the_bias_is_no_part_of_the_maps_and_stays_in_the_networks() -> None:
    """The released code removes it from both networks, which changes the logits of the teacher."""
    built = method(CATKD, cat_weight=2.0).eval()
    with torch.no_grad():
        built.student.model.fc.bias += torch.arange(10)
        maps = [
            F.conv2d(network.features(batch().images, maps=1).maps[0], network.classifier[0][:, :, None, None])
            for network in (built.student, built.teacher)
        ]
        torch.testing.assert_close(built.training_terms(batch())["cat"], 2 * class_activation_loss(*maps))


def test_the_output_of_a_head_convolution_is_read() -> None:
    network = Network("cifar_mobilenetv2", num_classes=10).eval()
    with torch.no_grad():
        seen = network.features(batch(32).images, maps=1, final=True, logits=True)
        maps = network.classify(pooled_map(network, seen))
    assert maps.shape[1] == 10
    torch.testing.assert_close(maps.mean((2, 3)), seen.logits)
    assert torch.isfinite(method(CATKD, student=network).training_terms(batch(32))["cat"])


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"CATKD needs .* at least 16 positions, .* cifar_resnet8 has 2 x 2"):
        trainer(tmp_path).fit(CATKD(student=student(), teacher=shared_teacher(), grid=4), digits())
    with pytest.raises(ConfigError, match="grid: 0 is not above 0"):
        method(CATKD, grid=0)
    teacher = with_weights(tmp_path, "convnext_atto", depths=[1, 1, 1, 1], dims=[8, 8, 8, 8])
    with pytest.raises(ConfigError, match="convnext_atto: this network has no class maps"):
        CATKD(student=student(), teacher=teacher).training_terms(batch(64))
    with pytest.raises(ConfigError, match=r"teacher.num_classes: .* has 5 classes, but the student .* have 10"):
        method(CATKD, with_weights(tmp_path, "cifar_resnet8", 5))
