"""IUSPKD: golden value, invariances, positions of CNNs and ViTs, and refusals."""

from pathlib import Path

import pytest
import torch
from helpers import golden
from helpers.factories import digits, method, shared_teacher, student, trainer
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.methods import IUSPKD
from kd_lightning.methods.iu_spkd import position_similarity_loss
from kd_lightning.methods.sp import sp_loss
from kd_lightning.models import Features


def teacher() -> Tensor:
    return golden.teacher(6, 12).reshape(2, 3, 12)


def test_golden_value() -> None:
    def loss(student: Tensor) -> Tensor:
        return position_similarity_loss(student.reshape(2, 3, 8), teacher())

    golden.check(loss, (golden.student(6, 8),), 0.005555623518, 0.028399606)


def test_it_is_sp_within_each_image() -> None:
    student, target = golden.student_maps(4, 5, 6), golden.teacher_maps(4, 5, 7)
    within = [sp_loss(*pair) for pair in zip(student, target, strict=True)]
    torch.testing.assert_close(position_similarity_loss(student, target), torch.stack(within).mean())


def test_a_factor_and_a_rotation_of_the_features_are_free() -> None:
    rotation, _ = torch.linalg.qr(golden.teacher_chirp(12, 12))
    assert position_similarity_loss(0.3 * teacher() @ rotation, teacher()).item() == pytest.approx(0, abs=1e-20)
    assert position_similarity_loss(teacher().flip(1), teacher()) > 1e-3  # the positions are not exchangeable


def test_the_loss_is_of_the_maps_of_one_size() -> None:
    built = method(IUSPKD, position_weight=2.0)
    maps, larger = golden.student_maps(3, 4, 2, 2), golden.teacher_maps(3, 5, 4, 4)
    rows = torch.arange(3)
    losses = built.losses(Features([maps]), Features([larger]), Batch(maps, rows, rows, rows))
    pooled = torch.nn.functional.avg_pool2d(larger, 2)
    expected = 2 * position_similarity_loss(maps.flatten(2).mT, pooled.flatten(2).mT)
    torch.testing.assert_close(losses["position"], expected)


def test_one_position_is_refused_before_the_first_step(tmp_path: Path) -> None:
    built = IUSPKD(teacher=shared_teacher(), student=student(size=4))
    with pytest.raises(ConfigError, match=r"model.student: IUSPKD needs .* at least 2 positions, .* has 1 x 1"):
        trainer(tmp_path).fit(built, digits())
