"""Schedules: closed forms, real runs and resumed runs."""

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.factories import digits, method, trainer
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.optim import lr_scheduler as lr

from kd_lightning.batch import Batch
from kd_lightning.callbacks import Protocol
from kd_lightning.data import Digits
from kd_lightning.errors import ConfigError
from kd_lightning.methods import Supervised
from kd_lightning.models import Network
from kd_lightning.optim import Length, RunSchedule, WarmupCosine, WarmupMultiStep


def rates(make: Callable[[torch.optim.Optimizer], RunSchedule], epochs: int, per_epoch: int) -> list[float]:
    """Return the learning rate of each step of a run with a base rate of 2."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=2.0)
    schedule, seen = make(optimizer), []
    schedule.begin(lambda: Length(epochs, math.inf, per_epoch))
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
    schedule.begin(lambda: Length(2, math.inf, 10))
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


@pytest.mark.parametrize("milestones", [[5, 3], [0.0, 2], [-1], [math.nan], [2, math.inf]])
def test_milestones_out_of_order_raise_an_error(milestones: list[float]) -> None:
    with pytest.raises(ConfigError, match="milestones"):
        rates(lambda o: WarmupMultiStep(o, milestones=milestones), 1, 1)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (partial(WarmupCosine, warmup_from=-5), "warmup_from: -5 is not between 0 and 1"),
        (partial(WarmupCosine, warmup_epochs=math.nan), "warmup_epochs: nan is not a finite number"),
        (partial(WarmupCosine, final_factor=1e30), r"final_factor: 1e\+30 is not between 0 and 1"),
        (partial(WarmupCosine, final_factor=math.nan), "final_factor: nan is not between 0 and 1"),
        (partial(WarmupMultiStep, milestones=[1], gamma=-1), "gamma: -1 is not between 0 and 1"),
        (partial(WarmupMultiStep, milestones=[1], warmup_from=2), "warmup_from: 2 is not between 0 and 1"),
    ],
)
def test_factors_that_no_schedule_has_raise_an_error(make: Callable, line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{line}"):
        rates(make, 1, 1)
    with pytest.raises(ConfigError, match=f"^model.lr_scheduler.{line}"):
        Supervised(student=Network("cifar_resnet8", num_classes=10), lr_scheduler=make)


def test_a_resumed_schedule_continues_at_its_step_with_the_new_length() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=2.0)
    before = WarmupCosine(optimizer)
    before.begin(lambda: Length(2, math.inf, 5))
    for _ in range(5):
        optimizer.step()
        before.step()
    assert before.state_dict() == {"last_epoch": 5}
    other = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=2.0)
    after = WarmupCosine(other)
    after.begin(lambda: Length(4, math.inf, 5))
    after.load_state_dict(before.state_dict())
    assert other.param_groups[0]["lr"] == pytest.approx(1 + math.cos(math.pi * 5 / 20))


class Rates(Callback):
    """Records the learning rate of each optimizer step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, *args: object) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def run(
    folder: Path,
    scheduler: Callable,
    *callbacks: Callback,
    epochs: int,
    rate: float = 2.0,
    lr_batch_size: int | None = None,
    val_split: float = 0.1,
    resume: str | None = None,
    **kwargs: object,
) -> list[float]:
    watch, student = Rates(), Network("cifar_resnet8", model_kwargs={"channels": [2, 2, 2, 2]})
    optimizer = partial(torch.optim.SGD, lr=rate)
    method = Supervised(student=student, optimizer=optimizer, lr_scheduler=scheduler, lr_batch_size=lr_batch_size)
    fit = trainer(folder, watch, *callbacks, max_epochs=epochs, **kwargs)
    data = Digits(max_train_samples=100, batch_size=20, val_split=val_split)  # 5 steps per epoch
    fit.fit(method, data, ckpt_path=resume)
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
    seen = run(tmp_path, warm, epochs=4, rate=1.0, resume=str(tmp_path / "run.ckpt"))
    assert seen == pytest.approx([(1 + math.cos(math.pi * (step - 5) / 15)) / 2 for step in range(10, 20)])


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    seen = run(tmp_path, lambda o: WarmupMultiStep(o, milestones=[1]), epochs=2, accumulate_grad_batches=2)
    assert seen == pytest.approx([2.0] * 3 + [0.2] * 3)


def test_a_batch_size_that_changes_cannot_scale_the_rate(tmp_path: Path) -> None:
    """The command line refuses BatchSizeFinder. In Python, it runs after the optimizer is built."""
    finder = BatchSizeFinder(init_val=5, max_trials=1, steps_per_trial=2)
    with pytest.raises(ConfigError, match=r"^model.lr_batch_size: BatchSizeFinder changes the number of images"):
        run(tmp_path, WarmupCosine, finder, epochs=2, lr_batch_size=20)


def test_a_number_of_accumulated_batches_that_changes(tmp_path: Path) -> None:
    """Epochs of 5, 5, 3 and 3 steps; the milestone stays after epoch 3, also in a resumed run."""
    change = partial(GradientAccumulationScheduler, {2: 2})
    expected = [2.0] * 13 + [0.2] * 3
    assert run(tmp_path, lambda o: WarmupMultiStep(o, milestones=[3]), change(), epochs=4) == pytest.approx(expected)
    cosine = run(tmp_path, WarmupCosine, change(), epochs=4)
    epochs = [*(step / 5 for step in range(10)), *(2 + step / 3 for step in range(6))]
    assert cosine == pytest.approx([1 + math.cos(math.pi * epoch / 4) for epoch in epochs])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (lambda o: lr.OneCycleLR(o, max_lr=2.0, total_steps=10), [2.0 * 0.04, 2.0, 2.0 * 0.04 / 1e4]),
        (lambda o: lr.CyclicLR(o, base_lr=0.1, max_lr=1.1, step_size_up=5), [0.1, 0.5, 0.3]),
        (
            lambda o: lr.SequentialLR(
                o, [lr.ConstantLR(o, 0.5, 3), lr.CyclicLR(o, base_lr=1.0, max_lr=2.0, step_size_up=4)], milestones=[4]
            ),
            [1.0, 1.0, 1.75],
        ),
    ],
)
def test_schedules_that_count_steps_are_updated_after_each_step(
    schedule: Callable, expected: list[float], tmp_path: Path
) -> None:
    seen = run(tmp_path, schedule, epochs=2)
    assert [seen[0], seen[2], seen[9]] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("schedule", "line"),
    [
        (lambda o: lr.OneCycleLR(o, max_lr=1.0, total_steps=9), r"OneCycleLR has 9 steps, but .* 10 .* to 10$"),
        (lambda o: lr.ReduceLROnPlateau(o), r"choose lightning.pytorch.cli.ReduceLROnPlateau, .* val/acc$"),
        (
            lambda o: ReduceLROnPlateau(o, monitor="val/acc"),
            r"monitor: val/acc is given, but the run has no validation",
        ),
        (lambda o: CosineLRScheduler(o, t_initial=5), r"CosineLRScheduler .* WarmupCosine"),
    ],
)
def test_schedules_that_do_not_fit_raise_an_error(schedule: Callable, line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^model.lr_scheduler.*{line}"):
        run(tmp_path, schedule, epochs=2, limit_val_batches=0)


def test_a_plateau_is_read_after_each_validation(tmp_path: Path) -> None:
    def schedule(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(optimizer, monitor="val/acc", mode="max", threshold=10.0, patience=0, factor=0.5)

    seen = run(tmp_path, schedule, epochs=5, check_val_every_n_epoch=2)
    assert seen[::5] == [2.0, 2.0, 2.0, 2.0, 1.0]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_of_fewer_accumulated_batches_is_their_mean(precision: str, tmp_path: Path) -> None:
    """5 batches of 20 images, 3 of them accumulated: the second step is the mean over the last 2 batches."""
    gradients: list[Tensor] = []

    class Watch(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: Supervised, *args: object) -> None:
            trained = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
            gradients.append(torch.cat([parameter.grad.flatten() for parameter in trained]))

        def on_train_batch_start(self, trainer: Trainer, pl_module: Supervised, batch: Batch, number: int) -> None:
            with trainer.precision_plugin.forward_context():
                logits = copy.deepcopy(pl_module.student).train()
                loss = nn.functional.cross_entropy(logits(batch.images).float(), batch.labels)
            loss.backward()
            own = torch.cat([parameter.grad.flatten() for parameter in logits.parameters()])
            expected[number // 3] += own / (3 if number < 3 else 2)

    expected = [0, 0]
    run(tmp_path, WarmupCosine, Watch(), epochs=1, accumulate_grad_batches=3, precision=precision, val_split=0)
    assert len(gradients) == 2
    for gradient, mean in zip(gradients, expected, strict=True):
        assert (gradient - mean).norm() < (1e-5 if precision == "32-true" else 3e-2) * mean.norm()


def test_schedules_of_torch_step_once_per_epoch(tmp_path: Path) -> None:
    seen = run(tmp_path, lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1], gamma=0.5), epochs=2)
    assert seen == [2.0] * 5 + [1.0] * 5


def test_reduce_on_plateau_reads_its_metric(tmp_path: Path) -> None:
    def schedule(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(optimizer, monitor="val/acc", mode="max", threshold=10.0, patience=0, factor=0.5)

    seen = run(tmp_path, schedule, epochs=3)
    assert seen[0] == 2.0
    assert seen[-1] < 2.0


@pytest.mark.parametrize("step", [2, 4])
def test_a_plateau_is_the_same_from_each_validation(step: int, tmp_path: Path) -> None:
    """Also from a checkpoint that was saved after the last validation of an epoch, but before the epoch's end."""

    def fit(resume: Path | None = None) -> tuple[dict[str, Any], list[Tensor]]:
        torch.manual_seed(0)
        built = method(Supervised, lr_scheduler=lambda o: ReduceLROnPlateau(o, "val/ce", patience=0, threshold=0.9))
        kept = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, save_on_train_epoch_end=False)
        protocol = Protocol()
        protocol.checkpoints(tmp_path, validated=False)
        short = trainer(tmp_path, protocol, kept, max_epochs=3, val_check_interval=0.5, enable_checkpointing=True)
        short.fit(built, digits(max_train_samples=100, batch_size=25, val_split=20), ckpt_path=resume)
        return short.lr_scheduler_configs[0].scheduler.state_dict(), [*built.parameters()]

    (whole, weights), (again, resumed) = fit(), fit(tmp_path / f"step={step}.ckpt")
    assert whole == again
    assert whole["last_epoch"] == 3
    assert all(torch.equal(*pair) for pair in zip(weights, resumed, strict=True))
