"""CTKD: golden values of the loss, the temperature and the curriculum, and the direction in which each is trained."""

from pathlib import Path

import pytest
import torch
from helpers import golden
from helpers.factories import digits, method, trainer
from torch import Tensor

from kd_lightning.functional import kd_loss
from kd_lightning.methods import CTKD
from kd_lightning.methods.ctkd import GlobalTemperature, curriculum

OURS, THEIRS = golden.student_logits(), golden.teacher_logits()


def loss(temperature: GlobalTemperature, factor: float, ours: Tensor = OURS) -> Tensor:
    return kd_loss(ours, THEIRS, temperature=temperature(factor))


@pytest.mark.parametrize("factor", [0.0, -0.5, -1.0])
def test_golden_values(factor: float) -> None:
    module = GlobalTemperature().double()
    golden.check(lambda ours: loss(module, factor, ours), (OURS,), 1.720151156, 0.33790657)
    assert module(factor).item() == pytest.approx(15.62117157)
    (gradient,) = torch.autograd.grad(loss(module, factor), module.theta)
    assert gradient.abs().item() == pytest.approx(-factor * 0.007241973608)


def test_golden_values_of_the_curriculum() -> None:
    epochs = torch.tensor([1, 5, 10, 11, 200], dtype=torch.float64)
    assert curriculum(epochs).tolist() == pytest.approx([-0.02447174185, -0.5, -1, -1, -1])
    assert curriculum(epochs[0], epochs=0) == curriculum(epochs[0], epochs=0.4) == -1
    assert curriculum(torch.tensor(2), epochs=4).item() == pytest.approx(-0.5)


def test_a_step_of_gradient_descent_raises_the_loss_by_the_temperature() -> None:
    module = GlobalTemperature().double()
    before = loss(module, -1.0)
    before.backward()
    with torch.no_grad():
        module.theta -= 10 * module.theta.grad
    assert loss(module, -1.0) > before + 1e-4


def test_the_temperature_is_trained_logged_and_not_saved_with_the_student(tmp_path: Path) -> None:
    built, factors = method(CTKD, warmup=2), []
    forward = built.temperature.forward
    built.temperature.forward = lambda factor: (factors.append(factor), forward(factor))[1]
    run = trainer(tmp_path, max_epochs=3)
    run.fit(built, digits(max_train_samples=10, batch_size=10, val_split=0))
    torch.testing.assert_close(torch.stack(factors[-3:]), curriculum(torch.tensor([1, 2, 3]), epochs=2))
    assert built.temperature.theta != 1
    assert 1 < run.callback_metrics["train/temperature"] < 21
    assert "temperature.theta" in built.state_dict()
    assert not any("theta" in name for name in built.student.state_dict())
    held = [parameter for group in run.optimizers[0].param_groups for parameter in group["params"]]
    assert any(parameter is built.temperature.theta for parameter in held)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_temperature_is_computed_in_full_precision(dtype: torch.dtype) -> None:
    assert GlobalTemperature().to(dtype)(-1.0).item() == pytest.approx(15.62117157, rel=1e-6)
