"""AB: golden value, boundaries, connectors, and what each stage trains."""

import pytest
import torch
from helpers.factories import digits, method, student, trainer
from helpers.golden import check, student_maps, teacher_maps
from torch import nn

from kd_lightning.errors import ConfigError
from kd_lightning.methods import AB
from kd_lightning.methods.ab import activation_boundary_loss
from kd_lightning.models import Network

STAGES = (student_maps(2, 4, 8, 8), student_maps(2, 6, 4, 4))
TARGETS = [teacher_maps(2, 4, 8, 8), teacher_maps(2, 6, 4, 4)]


def test_golden_value() -> None:
    check(lambda *maps: activation_boundary_loss([2 * x for x in maps], TARGETS), STAGES, 1.917787237, 0.18179033)


def test_it_is_0_beyond_the_margin_on_the_teachers_side() -> None:
    right = [torch.where(x > 0, 1.5, -1.5) for x in TARGETS]
    assert activation_boundary_loss(right, TARGETS) == 0
    assert activation_boundary_loss(right, TARGETS, margin=2.0) > 0
    assert activation_boundary_loss([-x for x in right], TARGETS) > 1
    at_0 = activation_boundary_loss([torch.full((1, 1, 1, 1), -1.0)], [torch.zeros(1, 1, 1, 1)])
    assert at_0 == 0  # a value of 0 is not active


def test_a_larger_map_is_pooled() -> None:
    large = TARGETS[0].repeat_interleave(2, 2).repeat_interleave(2, 3)
    pair = [2 * STAGES[0]]
    torch.testing.assert_close(activation_boundary_loss(pair, [large]), activation_boundary_loss(pair, TARGETS[:1]))


def test_connectors_only_where_the_widths_differ() -> None:
    same = method(AB, student=Network("cifar_resnet8", num_classes=10))
    assert all(isinstance(layer, nn.Identity) for layer in same.connectors)
    convolution, norm = method(AB).connectors[0]
    assert (convolution.in_channels, convolution.out_channels, norm.num_features) == (4, 16, 16)
    assert convolution.bias is not None


def test_the_classifier_is_trained_in_the_second_stage_only(tmp_path: object) -> None:
    built, states = method(AB, first_stage=1), []
    before = {name: value.clone() for name, value in built.state_dict().items()}
    built.on_train_epoch_end = lambda: states.append({name: v.clone() for name, v in built.state_dict().items()})
    trainer(tmp_path, max_epochs=2).fit(built, digits())
    first = {name for name, value in before.items() if not torch.equal(value, states[0][name])}
    second = {name for name, value in states[0].items() if not torch.equal(value, states[1][name])}
    assert {name for name in before if name.startswith("student.")} - first == {
        "student.model.fc.weight",
        "student.model.fc.bias",
    }
    assert "connectors.0.0.weight" in first
    assert not any(name.startswith("connectors") for name in second)
    assert "student.model.fc.weight" in second


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="kd_weight: 0 is given, and ce_weight is 0, but the second stage has no"):
        method(AB, ce_weight=0)
    assert not method(AB, ce_weight=0, kd_weight=1).needs_labels
    with pytest.raises(ConfigError, match="ab_weight: 0 is given, but the first stage has no other term"):
        method(AB, ab_weight=0)
    with pytest.raises(ConfigError, match=r"model.first_stage: 0 omits the first stage"):
        method(AB, first_stage=0)
    with pytest.raises(ConfigError, match="layers: 5 is given, but cifar_resnet8 has 4 stages"):
        method(AB, layers=5)
    with pytest.raises(ConfigError, match=r"model.freeze: AB has stages of its own"):
        method(AB, student=Network("cifar_resnet20.digits", pretrained=True), freeze="backbone")
    assert student()
