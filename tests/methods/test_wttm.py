"""WTTM and TTM: golden values, an independent reference, the weights of the images, and refusals."""

import pytest
import torch
from helpers import golden
from helpers.factories import method
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.functional import kd_loss
from kd_lightning.methods import WTTM
from kd_lightning.methods.wttm import ttm_loss, wttm_loss
from kd_lightning.models import Features

OURS, THEIRS = golden.student_logits(), golden.teacher_logits()


def test_golden_values() -> None:
    golden.check(lambda ours: ttm_loss(ours, THEIRS, gamma=0.2), (OURS,), 0.3507635124, 0.14607642)
    golden.check(lambda ours: wttm_loss(ours, THEIRS, gamma=0.2), (OURS,), 1.00927257, 0.41912021)
    golden.check(lambda ours: ttm_loss(ours, THEIRS, gamma=0.2), (THEIRS,), 0.8164676009)
    golden.check(lambda ours: wttm_loss(ours, THEIRS, gamma=0.2), (THEIRS,), 2.3384294633)


def test_with_an_exponent_of_1_it_is_kd_without_temperature() -> None:
    for loss in (ttm_loss, wttm_loss):
        torch.testing.assert_close(loss(OURS, THEIRS, gamma=1.0), kd_loss(OURS, THEIRS, temperature=1.0))


def test_the_weight_of_a_sample_is_its_power_sum() -> None:
    for row in range(6):
        rows = OURS[row : row + 1], THEIRS[row : row + 1]
        power_sum = (rows[1].softmax(dim=1) ** 0.3).sum()
        torch.testing.assert_close(wttm_loss(*rows, gamma=0.3), power_sum * ttm_loss(*rows, gamma=0.3))


def test_the_weights_are_from_1_to_a_power_of_the_classes() -> None:
    uniform, certain = torch.zeros(1, 10), torch.tensor([[1e4, *[0.0] * 9]])
    for teacher, weight in ((uniform, 10**0.8), (certain, 1.0)):
        ours = OURS[:1].float().repeat(1, 2)
        ratio = wttm_loss(ours, teacher, gamma=0.2) / ttm_loss(ours, teacher, gamma=0.2)
        assert ratio.item() == pytest.approx(weight, rel=1e-5)


@pytest.mark.parametrize("change", [lambda x: x + 3, lambda x: x + torch.arange(6)[:, None]])
def test_a_constant_on_all_logits_of_a_sample_changes_nothing(change: object) -> None:
    found = wttm_loss(change(OURS), change(THEIRS), gamma=0.2)
    torch.testing.assert_close(found, wttm_loss(OURS, THEIRS, gamma=0.2))


@pytest.mark.parametrize(("weighted", "loss"), [(True, wttm_loss), (False, ttm_loss)])
def test_the_method_has_both_losses(weighted: bool, loss: object) -> None:
    built = method(WTTM, weighted=weighted, gamma=0.3, wttm_weight=5.0)
    found: dict[str, Tensor] = built.losses(Features(logits=OURS), Features(logits=THEIRS), batch=None)
    torch.testing.assert_close(found, {"wttm": 5 * loss(OURS, THEIRS, gamma=0.3)})


@pytest.mark.parametrize("value", [0.0, 1.5])
def test_an_exponent_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=f"^gamma: {value} is not between 0.001 and 1"):
        method(WTTM, gamma=value)
