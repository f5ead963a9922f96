"""Durations: epochs or a share of the run, warm-ups, and refusals."""

import warnings
from pathlib import Path

import pytest
from helpers.factories import digits, method, trainer
from lightning.pytorch import Callback, LightningModule, Trainer

from kd_lightning.distillation.durations import Duration
from kd_lightning.errors import ConfigError
from kd_lightning.methods import KD


def with_warmup(value: Duration) -> KD:
    built = method(KD)
    built.set_durations(warmup=value)
    return built


class Factors(Callback):
    """Collects the factor of the warm-up in each epoch."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.found.append(pl_module.ramp("warmup").item())


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, [1, 1, 1, 1]), (1, [1, 1, 1, 1]), (2, [0.5, 1, 1, 1]), (0.75, [1 / 3, 2 / 3, 1, 1]), (0.1, [1, 1, 1, 1])],
)
def test_the_factor_rises_over_epochs_or_a_share_of_the_run(
    value: Duration, expected: list[float], tmp_path: Path
) -> None:
    factors = Factors()
    trainer(tmp_path, factors, max_epochs=4).fit(with_warmup(value), digits(max_train_samples=10, batch_size=10))
    assert factors.found == pytest.approx(expected)


@pytest.mark.parametrize("value", [-1, -0.1, 1.5, float("nan"), float("inf")])
def test_a_value_that_is_no_duration_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=rf"model.warmup: {value} is neither a number of epochs .* nor a share"):
        with_warmup(value)


def test_a_share_of_a_run_without_a_number_of_epochs_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_epochs=-1, max_steps=2)
    with pytest.raises(ConfigError, match=r"model.warmup: 0.5 is a share .* no number of epochs; give a whole number"):
        run.fit(with_warmup(0.5), digits(max_train_samples=10, batch_size=10))


def test_a_warm_up_longer_than_the_run_gives_a_warning(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_epochs=3)
    with pytest.warns(UserWarning, match=r"model.warmup: 20 epochs do not end within the 3 epochs of this run; give"):
        with_warmup(20).check_durations(run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_warmup(3).check_durations(run)
