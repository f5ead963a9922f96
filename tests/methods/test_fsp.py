"""FSP: golden value, the matrix, the maps that are compared, and the refusal of unequal widths."""

import pytest
import torch
from helpers.factories import method
from helpers.golden import check, student_maps, teacher_maps

from kd_lightning.errors import ConfigError
from kd_lightning.methods import FSP
from kd_lightning.methods.fsp import fsp_loss, fsp_matrix
from kd_lightning.models import Network, Reads

STAGES = (student_maps(2, 4, 8, 8), student_maps(2, 6, 4, 4))
TARGETS = [teacher_maps(2, 4, 8, 8), teacher_maps(2, 6, 4, 4)]


def test_golden_value() -> None:
    check(lambda *maps: fsp_loss(maps, TARGETS), STAGES, 0.008955748091, 0.0050671377)


def test_the_matrix_is_a_mean_over_positions() -> None:
    lower, upper = TARGETS[0][:, :, :4, :4], TARGETS[1]
    expected = torch.einsum("nchw,ndhw->ndc", lower, upper) / 16
    torch.testing.assert_close(fsp_matrix(lower, upper), expected)
    large = lower.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(fsp_matrix(large, upper), expected)
    torch.testing.assert_close(fsp_matrix(upper, large), expected.mT)


def test_it_is_0_for_equal_maps_in_another_order_of_positions() -> None:
    maps = [x[:, :, :4, :4] for x in TARGETS]
    assert fsp_loss([x.flip(2) for x in maps], maps) < 1e-20


def test_all_stages_with_the_stem_are_compared() -> None:
    built = method(FSP, student=Network("cifar_resnet8", num_classes=10), connect=False)
    assert built.reads == Reads(maps=4)
    assert not [*built.connectors.parameters()]
    assert [layers[0].out_channels for layers in method(FSP).connectors] == [16, 16, 32, 64]
    assert [stage.name for stage in built.training_stages] == ["flow", "labels"]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"student: FSP needs maps of equal widths, .* 4, 4, 8, 16 channels, .* 64"):
        method(FSP, connect=False)
    with pytest.raises(ConfigError, match="layers: FSP compares pairs of stages, and 1 is too few"):
        method(FSP, layers=1)
    with pytest.raises(ConfigError, match="kd_weight: 0 is given, and ce_weight is 0, but the second stage has no"):
        method(FSP, ce_weight=0)
