"""OFD: golden values, margins, the BatchNorm of each network, and the teacher's statistics."""

import pytest
import torch
from helpers.factories import digits, method, trainer, with_weights
from helpers.golden import check, student_maps, teacher_maps
from scipy.stats import norm
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.methods import OFD
from kd_lightning.methods.ofd import margins, ofd_loss
from kd_lightning.models import Network, norms

STAGES = (student_maps(2, 4, 8, 8), student_maps(2, 6, 4, 4))
TARGETS = [2 * teacher_maps(2, 4, 8, 8) - 0.5, 2 * teacher_maps(2, 6, 4, 4) - 0.5]


def margins_of(channels: int) -> Tensor:
    numbers = torch.arange(channels, dtype=torch.float64)
    return margins(0.5 + 0.1 * numbers, 0.6 * torch.cos(numbers))


def test_golden_values() -> None:
    expected = [-0.2437760124, -0.3782329971, -0.6595593107, -0.9081715765, -0.8806363574, -0.7391015489]
    assert margins_of(6).tolist() == pytest.approx(expected, rel=1e-9)
    both = [margins_of(4), margins_of(6)]
    check(lambda *maps: ofd_loss(maps, TARGETS, both), STAGES, 394.8073419, 23.820404)


def test_a_margin_is_the_mean_of_the_negative_values() -> None:
    weight, bias = torch.tensor([0.5, -2.0, 1.0, 1.0]).double(), torch.tensor([0.3, -1.0, 0.0, 5.0]).double()
    for number in range(3):
        shares = (torch.arange(200_000).double().numpy() + 0.5) / 200_000
        values = norm.ppf(shares, bias[number].item(), weight[number].abs().item())
        assert margins(weight, bias)[number].item() == pytest.approx(values[values < 0].mean(), rel=1e-3)
    assert margins(weight, bias)[3] == -3  # hardly any value is negative
    assert margins(torch.zeros(3), torch.tensor([-1.0, 0.0, 1.0])).tolist() == pytest.approx([-1, 0, 0], abs=1e-6)


def test_no_loss_below_the_margin_where_the_teacher_is_negative() -> None:
    margin = [torch.tensor([-0.5])]

    def loss(student: float, teacher: float) -> float:
        return ofd_loss([torch.full((1, 1, 1, 1), student)], [torch.full((1, 1, 1, 1), teacher)], margin).item()

    assert loss(-3.0, -2.0) == 0
    assert loss(-0.4, -2.0) == pytest.approx(0.01)
    assert loss(-0.4, -0.2) == 0  # the student is below the teacher, which is negative
    assert loss(0.5, -0.2) == pytest.approx(0.49)
    assert loss(-3.0, 2.0) == pytest.approx(25)


def test_the_teacher_stays_as_it_was(tmp_path: object) -> None:
    """Its statistics change in both released codes."""
    built = method(OFD)
    before = {name: value.clone() for name, value in built.teacher.state_dict().items()}
    trainer(tmp_path).fit(built, digits())
    assert all(torch.equal(value, before[name]) for name, value in built.teacher.state_dict().items())
    assert not built.teacher.model.bn1.training
    assert not any("margins" in name for name in built.state_dict())


@pytest.mark.parametrize(
    ("name", "expected"),  # as in mdistiller; those of timm's ResNets likewise
    [
        ("cifar_resnet8x4", ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"]),
        ("cifar_wrn_16_1", ["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"]),
        ("cifar_vgg8", ["block2.1", "block3.1", "block4.1"]),
        ("cifar_mobilenetv2", ["blocks.2.2.conv.7", "blocks.4.2.conv.7", "blocks.6.0.conv.7"]),
        ("cifar_resnet50", ["layer2.3.bn3", "layer3.5.bn3", "layer4.2.bn3"]),
        ("resnet18", ["layer2.1.bn2", "layer3.1.bn2", "layer4.1.bn2"]),
    ],
)
def test_the_norm_before_the_activation(name: str, expected: list[str]) -> None:
    with torch.device("meta"):
        model = Network(name, num_classes=10).model
    names = {id(module): path for path, module in model.named_modules()}
    assert [names[id(layer)] for layer in norms.before_activations(name, model, 3)] == expected


def test_refusals(tmp_path: object) -> None:
    with pytest.raises(ConfigError, match=r"cifar_shufflenetv2: no BatchNorm with \d+ channels is before the last"):
        method(OFD, with_weights(tmp_path, "cifar_shufflenetv2"))
    with pytest.raises(ConfigError, match="layers: 5 is given, but cifar_resnet8 has 4 stages"):
        method(OFD, layers=5)
