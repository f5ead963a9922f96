"""CKD: golden values, its invariances, and the samples that are compared."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import golden
from helpers.factories import method, student, with_weights
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.methods import CKD
from kd_lightning.methods.ckd import ckd_loss
from kd_lightning.models import Features

OURS, THEIRS = golden.student_logits(), golden.teacher_logits()


@pytest.mark.parametrize(
    ("temperature", "value", "gradient"), [(1.0, 1.675299858, 0.080514543), (2.0, 1.714127002, 0.041454223)]
)
def test_golden_values(temperature: float, value: float, gradient: float) -> None:
    golden.check(lambda ours: ckd_loss(ours, THEIRS, temperature=temperature), (OURS,), value, gradient)


def test_the_teachers_samples_are_the_queries() -> None:
    """With the student's samples as queries, the value would be that of the transposed matrix."""
    swapped = ckd_loss(THEIRS, OURS, temperature=1.0)
    assert abs(swapped - ckd_loss(OURS, THEIRS, temperature=1.0)) > 1e-3
    rows = [[sum(a * b) / (a.norm() * b.norm()) for b in OURS] for a in THEIRS]
    losses = [torch.stack(row).exp().sum().log() - row[place] for place, row in enumerate(rows)]
    torch.testing.assert_close(ckd_loss(OURS, THEIRS, temperature=1.0), torch.stack(losses).mean())


def test_equal_networks_are_not_the_minimum() -> None:
    golden.check(lambda ours: ckd_loss(ours, THEIRS, temperature=1.0), (THEIRS,), 1.1744491922)
    moved = THEIRS.clone().requires_grad_()
    ckd_loss(moved, THEIRS, temperature=1.0).backward()
    assert ckd_loss(THEIRS - 10 * moved.grad, THEIRS, temperature=1.0) < 1.1744491922 - 1e-3


def test_the_loss_of_orthogonal_samples() -> None:
    eye = torch.eye(64, dtype=torch.float64)
    assert ckd_loss(eye, eye, temperature=1.0).item() == pytest.approx(3.19, abs=0.005)  # log(1 + 63 / e)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda x: 7 * x, True),
        (lambda x: x * torch.arange(1, 7)[:, None], True),
        (lambda x: x + 1, False),
        (lambda x: x.roll(1, 1), False),
    ],
)
def test_invariances_of_the_students_logits(change: Callable[[Tensor], Tensor], same: bool) -> None:
    before, after = (ckd_loss(x, THEIRS, temperature=1.0) for x in (OURS, change(OURS)))
    assert torch.allclose(before, after, rtol=1e-12) == same


def test_the_order_of_the_samples_has_no_effect() -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = ckd_loss(OURS[order], THEIRS[order], temperature=1.0)
    torch.testing.assert_close(permuted, ckd_loss(OURS, THEIRS, temperature=1.0), rtol=1e-12, atol=0)


def test_other_classes_are_refused(tmp_path: Path) -> None:
    seven = with_weights(tmp_path, "cifar_resnet8", classes=7)
    with pytest.raises(
        ConfigError, match=r"^model.teacher.num_classes: .* has 7 classes, .* have 10, and CKD reads logits"
    ):
        CKD(teacher=seven, student=student())


@pytest.mark.parametrize(
    ("wrong", "line"),
    [({"temperature": 0.0}, "^temperature: 0.0 is not above 0"), ({"ckd_weight": -1.0}, "^ckd_weight: -1.0 is not")],
)
def test_refusals(wrong: dict[str, float], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        method(CKD, **wrong)


def test_the_samples_of_all_devices_are_compared() -> None:
    built = method(CKD, ckd_weight=3.0, temperature=2.0)
    built.all_gather = lambda *logits: tuple(torch.cat([x, x.flip(1)]) for x in logits)
    found = built.losses(Features(logits=OURS), Features(logits=THEIRS), batch=None)
    everyones = (torch.cat([x, x.flip(1)]) for x in (OURS, THEIRS))
    torch.testing.assert_close(found, {"ckd": 3 * ckd_loss(*everyones, temperature=2.0)})
