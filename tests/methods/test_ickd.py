"""ICKD: golden value, invariances, maps of unequal size, and the layers that the released code never uses."""

import pytest
import torch
import torch.nn.functional as F
from helpers import golden
from helpers.factories import method
from torch import Tensor, nn

from kd_lightning.methods import ICKD
from kd_lightning.methods.aicsd import class_gram_loss
from kd_lightning.methods.ickd import channel_correlation_loss


def connected(maps: Tensor) -> Tensor:
    return F.batch_norm(F.conv2d(maps, golden.weight(1, 6, 3, 1, 1)), None, None, training=True)


def test_golden_value() -> None:
    def loss(maps: Tensor) -> Tensor:
        return channel_correlation_loss(connected(maps), golden.teacher_maps(2, 6, 4, 4))

    golden.check(loss, (golden.student_maps(2, 3, 8, 8),), 1.489136111, 0.017827731)


def test_invariances() -> None:
    student, teacher = golden.student_maps(2, 6, 4, 4), golden.teacher_maps(2, 6, 4, 4)
    expected = channel_correlation_loss(student, teacher)
    torch.testing.assert_close(channel_correlation_loss(7 * student, teacher), expected)
    torch.testing.assert_close(channel_correlation_loss(student.flip(3), teacher), expected)  # of the positions
    torch.testing.assert_close(channel_correlation_loss(student, F.interpolate(teacher, scale_factor=2)), expected)
    assert channel_correlation_loss(teacher, teacher) == 0
    assert channel_correlation_loss(teacher.flip(1), teacher) > 1e-3  # the channels are not exchangeable
    assert class_gram_loss(student, teacher) == expected  # AICSD compares class maps in the same way


def test_only_the_student_is_mapped() -> None:
    """The layers that the released code creates for the teacher get no gradient, which stops a distributed run."""
    built = method(ICKD)
    (convolution,) = [layer for layer in built.connector if isinstance(layer, nn.Conv2d)]
    assert convolution.bias is None
    assert [type(layer) for layer in built.connector] == [nn.Conv2d, nn.BatchNorm2d]
    own = {name.partition(".")[0] for name, _ in built.named_parameters()}
    assert own == {"student", "connector"}
    assert built.ickd_weight == pytest.approx(2.5)
