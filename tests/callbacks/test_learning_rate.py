"""The search for a learning rate: the schedule uses it, the student is not changed by it, a resumed run keeps it."""

import math
from pathlib import Path

import pytest
import torch
from helpers.factories import digits, method, trainer, weights
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder

from kd_lightning.callbacks.learning_rate import RunLearningRateFinder, _steepest
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError, RunError
from kd_lightning.methods import KD
from kd_lightning.optim import WarmupCosine, base_rate


class Rates(Callback):
    """The learning rate before each step, and the student before the first."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.student = weights(pl_module)

    def on_train_batch_start(self, trainer: Trainer, *args: object) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def fit(folder: Path, steps: int = 25, ckpt: Path | None = None, epochs: int = 2, **settings: float) -> tuple:
    trained = method(KD, check_teacher=False, lr_scheduler=lambda one: WarmupCosine(one, warmup_epochs=1))
    before, rates = weights(trained), Rates()
    finder = RunLearningRateFinder(LearningRateFinder(num_training_steps=steps, min_lr=1e-5, **settings))
    run = trainer(folder, finder, rates, max_epochs=epochs, limit_val_batches=0)
    run.fit(trained, digits(batch_size=25), ckpt_path=ckpt, weights_only=True)
    assert base_rate(run) == finder.found
    return run, trained, before, finder.found, rates


def test_the_schedule_of_the_run_uses_the_rate_and_the_student_is_restored(tmp_path: Path) -> None:
    run, trained, before, found, rates = fit(tmp_path)
    assert torch.equal(rates.student, before)
    assert not torch.equal(weights(trained), before)
    assert 1e-5 < found < 1
    cosine = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert rates.rates == pytest.approx([found * factor for factor in (0, 0.25, 0.5, 0.75, *cosine)])
    assert (run.global_step, run.current_epoch) == (8, 2)
    assert not [*tmp_path.glob(".lr_find*")]


def test_a_resumed_run_uses_the_rate_without_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _, _, found, _ = fit(tmp_path, epochs=1)
    run.save_checkpoint(tmp_path / "last.ckpt")
    monkeypatch.setattr(LearningRateFinder, "lr_find", None)
    *_, again, rates = fit(tmp_path, ckpt=tmp_path / "last.ckpt")
    assert again == found
    assert rates.rates == pytest.approx([found * 0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)])


def test_a_search_that_ends_too_early_is_an_error(tmp_path: Path) -> None:
    assert fit(tmp_path, steps=14)[3] > 0
    with pytest.raises(RunError, match=r"^LearningRateFinder: no learning rate was found in \d+ steps; set a larger"):
        fit(tmp_path, steps=30, early_stop_threshold=1.0001)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"num_training_steps": 0}, "num_training_steps: 0 is less than 14"),
        ({"num_training_steps": 13}, "num_training_steps: 13 is less than 14"),
        ({"min_lr": 0.0}, "min_lr: 0.0 is not above 0"),
        ({"min_lr": -1.0, "mode": "linear"}, "min_lr: -1.0 is not above 0"),
        ({"min_lr": 2.0}, "max_lr: 1 is not above min_lr, 2.0"),
        ({"max_lr": math.inf}, "max_lr: inf is not above min_lr"),
        ({"early_stop_threshold": 1.0}, "early_stop_threshold: 1.0 is not above 1"),
    ],
)
def test_a_search_that_finds_nothing_raises_an_error_before_it_starts(settings: dict, line: str) -> None:
    with pytest.raises(ConfigError, match=f"^trainer.callbacks: LearningRateFinder.{line}"):
        RunLearningRateFinder(LearningRateFinder(**settings))
    RunLearningRateFinder(LearningRateFinder(min_lr=0.0, mode="linear"))


def test_the_rate_is_where_the_loss_falls_fastest_per_step() -> None:
    rates = [10 ** (step / 10) for step in range(-60, 1)]
    losses = [2 - 1 / (1 + math.exp(-(step + 20) / 2)) for step in range(-60, 1)]  # steepest at step -20
    losses[30] = math.nan
    assert _steepest(rates, losses) == pytest.approx(1e-2, rel=0.3)
    assert _steepest(rates[:13], losses[:13]) is None


def test_groups_that_a_callback_adds_follow_the_schedule(tmp_path: Path) -> None:
    """As BaseFinetuning adds them."""

    class Adds(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: StudentModule) -> None:
            if trainer.current_epoch == 1:
                new = torch.nn.Parameter(torch.zeros(3))
                trainer.optimizers[0].add_param_group({"params": [new], "lr": 0.01})

    run = trainer(tmp_path, Adds(), max_epochs=3, limit_val_batches=0)
    run.fit(method(KD, check_teacher=False), digits(batch_size=25))
    first, added = run.optimizers[0].param_groups
    assert first["lr"] == pytest.approx(0, abs=1e-9)
    assert added["lr"] == pytest.approx(0, abs=1e-9)
