"""Schedules: closed forms, real runs and resumed runs."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.factories import trainer
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import nn

from kd_lightning.data import Digits
from kd_lightning.errors import ConfigError
from kd_lightning.methods import Supervised
from kd_lightning.models import Network
from kd_lightning.optim import RunSchedule, WarmupCosine, WarmupMultiStep


def rates(make: Callable[[torch.optim.Optimizer], RunSchedule], epochs: int, per_epoch: int) -> list[float]:
    """Return the learning rate of each step of a run with a base rate of 2."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=2.0)
    schedule, seen = make(optimizer), []
    schedule.begin(epochs * per_epoch, per_epoch)
    for _ in range(epochs * per_epoch):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_cosine_with_warmup_is_its_closed_form() -> None:
    seen = rates(lambda o: WarmupCosine(o, warmup_epochs=2, warmup_from=0.1, final_factor=0.01), 10, 7)
    for step, rate in enumerate(seen):
        epoch = step / 7
        factor = 0.1 + 0.9 * epoch / 2
        if epoch >= 2:
            factor = 0.01 + 0.99 * (1 + math.cos(math.pi * (epoch - 2) / 8)) / 2
        assert rate == pytest.approx(2 * factor)
    assert rates(lambda o: WarmupCosine(o), 3, 5)[0] == 2.0


def test_each_parameter_group_has_its_own_base_rate() -> None:
    groups = [{"params": nn.Linear(1, 1).parameters(), "lr": rate} for rate in (2.0, 0.5)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    schedule = WarmupCosine(optimizer, warmup_epochs=1, warmup_from=0.5)
    schedule.begin(20, 10)
    for step in range(20):
        factor = 0.5 + 0.5 * step / 10 if step < 10 else (1 + math.cos(math.pi * (step - 10) / 10)) / 2
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([2 * factor, 0.5 * factor])
        assert [*schedule.get_last_lr()] == [group["lr"] for group in optimizer.param_groups]
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0)


def test_a_warmup_longer_than_the_run_only_rises_and_a_negative_one_raises_an_error() -> None:
    assert rates(lambda o: WarmupCosine(o, warmup_epochs=4), 2, 2) == pytest.approx([0.0, 0.25, 0.5, 0.75])
    with pytest.raises(ConfigError, match=r"^warmup_epochs: -1"):
        rates(lambda o: WarmupCosine(o, warmup_epochs=-1), 2, 2)


@pytest.mark.parametrize("epochs", [7, 100])
def test_a_milestone_as_a_fraction_takes_effect_at_the_exact_epoch(epochs: int) -> None:
    """In floating point, 0.55 * 100 is 55.00000000000001."""
    for epoch in range(1, epochs):
        seen = rates(lambda o, m=epoch / epochs: WarmupMultiStep(o, milestones=[m]), epochs, 1)
        assert seen == pytest.approx([2.0] * epoch + [0.2] * (epochs - epoch))


def test_multi_step_drops_at_its_milestones() -> None:
    seen = rates(lambda o: WarmupMultiStep(o, milestones=[3, 5], gamma=0.5), 6, 4)
    assert seen == [2.0] * 12 + [1.0] * 8 + [0.5] * 4
    assert seen == rates(lambda o: WarmupMultiStep(o, milestones=[0.5, 5 / 6], gamma=0.5), 6, 4)
    warm = rates(lambda o: WarmupMultiStep(o, milestones=[3], warmup_epochs=1), 4, 4)
    assert warm[:5] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])


@pytest.mark.parametrize("milestones", [[5, 3], [0.0, 2], [-1]])
def test_milestones_out_of_order_raise_an_error(milestones: list[float]) -> None:
    with pytest.raises(ConfigError, match="milestones"):
        rates(lambda o: WarmupMultiStep(o, milestones=milestones), 1, 1)


def test_a_resumed_schedule_continues_at_its_step_with_the_new_length() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=2.0)
    before = WarmupCosine(optimizer)
    before.begin(10, 5)
    for _ in range(5):
        optimizer.step()
        before.step()
    assert before.state_dict() == {"last_epoch": 5}
    other = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=2.0)
    after = WarmupCosine(other)
    after.begin(20, 5)
    after.load_state_dict(before.state_dict())
    assert other.param_groups[0]["lr"] == pytest.approx(1 + math.cos(math.pi * 5 / 20))


class Rates(Callback):
    """Records the learning rate of each optimizer step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, *args: object) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def run(
    folder: Path, scheduler: Callable, *, epochs: int, lr: float = 2.0, resume: str | None = None, **kwargs: object
) -> list[float]:
    watch, student = Rates(), Network("cifar_resnet8", model_kwargs={"channels": [2, 2, 2, 2]})
    method = Supervised(student=student, optimizer=lambda p: torch.optim.SGD(p, lr=lr), lr_scheduler=scheduler)
    fit = trainer(folder, watch, max_epochs=epochs, **kwargs)
    fit.fit(method, Digits(max_train_samples=100, batch_size=20), ckpt_path=resume)  # 5 steps per epoch
    if resume is None:
        fit.save_checkpoint(folder / "run.ckpt")
    return watch.seen


def test_the_length_of_a_run_comes_from_the_trainer(tmp_path: Path) -> None:
    expected = [1 + math.cos(math.pi * step / 10) for step in range(10)]
    assert run(tmp_path, WarmupCosine, epochs=2) == pytest.approx(expected)


@pytest.mark.parametrize(("epochs", "limits"), [(-1, {"max_steps": 7}), (3, {"max_steps": 7})])
def test_max_steps_limits_the_length(epochs: int, limits: dict[str, int], tmp_path: Path) -> None:
    expected = [1 + math.cos(math.pi * step / 7) for step in range(7)]
    assert run(tmp_path, WarmupCosine, epochs=epochs, **limits) == pytest.approx(expected)


def test_a_resumed_run_continues_at_its_step_with_its_own_length_and_rate(tmp_path: Path) -> None:
    def warm(optimizer: torch.optim.Optimizer) -> WarmupCosine:
        return WarmupCosine(optimizer, warmup_epochs=1)

    run(tmp_path, warm, epochs=2)
    seen = run(tmp_path, warm, epochs=4, lr=1.0, resume=str(tmp_path / "run.ckpt"))
    assert seen == pytest.approx([(1 + math.cos(math.pi * (step - 5) / 15)) / 2 for step in range(10, 20)])


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    seen = run(tmp_path, lambda o: WarmupMultiStep(o, milestones=[1]), epochs=2, accumulate_grad_batches=2)
    assert seen == pytest.approx([2.0] * 3 + [0.2] * 3)


def test_schedules_of_torch_step_once_per_epoch(tmp_path: Path) -> None:
    seen = run(tmp_path, lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1], gamma=0.5), epochs=2)
    assert seen == [2.0] * 5 + [1.0] * 5


def test_reduce_on_plateau_reads_its_metric(tmp_path: Path) -> None:
    def schedule(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(optimizer, monitor="val/acc", mode="max", threshold=10.0, patience=0, factor=0.5)

    seen = run(tmp_path, schedule, epochs=3)
    assert seen[0] == 2.0
    assert seen[-1] < 2.0
