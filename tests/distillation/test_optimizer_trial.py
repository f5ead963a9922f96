"""The trial of the optimizer and of its schedule on copies: what fails, what a run cannot use, and what is odd."""

import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import factories
from torch import optim as o
from torch.optim import lr_scheduler as lr

from kd_lightning.data import Digits
from kd_lightning.distillation import StudentModule
from kd_lightning.distillation.optimizer_trial import try_optimizer
from kd_lightning.distillation.trial import try_step
from kd_lightning.errors import ConfigError
from kd_lightning.methods import Supervised
from kd_lightning.optim import WarmupCosine, WarmupMultiStep, build

SGD = partial(o.SGD, lr=0.05)


def within_a_run(folder: Path, check: Callable[[StudentModule, Digits], None], **kwargs: object) -> None:
    """Call a function where `fit` calls the trial. The run has 100 images, 20 steps per epoch and 4 epochs."""
    method, data = factories.method(Supervised), factories.digits(batch_size=5, val_split=0)

    def look(data: Digits) -> None:
        check(method, data)
        raise InterruptedError

    data.checks = [look]
    with pytest.raises(InterruptedError):
        factories.trainer(folder, **{"max_epochs": 4, **kwargs}).fit(method, datamodule=data)


def some_parameters() -> list[torch.nn.Parameter]:
    parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in ((3,), (2, 3), (2, 3, 3, 3))]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 0.1)
    return parameters


FAIL = [
    (partial(o.SGD, lr=0.1, differentiable=True), "model.optimizer: SGD cannot take a step: RuntimeError: a leaf Var"),
    (partial(o.Adam, capturable=True), "model.optimizer: Adam cannot take a step: AssertionError: If capturable=True"),
    (partial(o.RMSprop, alpha=2), "model.optimizer: two steps of RMSprop give weights that are not finite"),
    (o.SparseAdam, "model.optimizer: SparseAdam cannot take a step: RuntimeError: SparseAdam does not support dense"),
]
SCHEDULES = [
    (partial(lr.StepLR, step_size=0), "StepLR cannot be updated: ZeroDivisionError"),
    (partial(lr.CosineAnnealingLR, T_max=0), "CosineAnnealingLR cannot be updated: ZeroDivisionError"),
    (partial(lr.CyclicLR, base_lr=0.1, max_lr=1, step_size_up=0), "CyclicLR cannot be built: ZeroDivisionError"),
    (partial(lr.OneCycleLR, max_lr=1, total_steps=79), "OneCycleLR has 79 steps, but the run has 80 .* to 80$"),
    (partial(lr.OneCycleLR, max_lr=1, total_steps=0), "OneCycleLR cannot be built: "),
    (partial(lr.StepLR, step_size=1, gamma=-1), "StepLR gives the learning rate -0.05 in epoch 1; all"),
    (partial(lr.MultiStepLR, milestones=[2], gamma=-1), "MultiStepLR gives the learning rate -0.05 in epoch 2; all"),
    (partial(lr.ExponentialLR, gamma=1e5), "ExponentialLR gives the learning rate 5e\\+08 in epoch 2; all"),
    (partial(lr.ConstantLR, factor=0.5, total_iters=2), ""),
    (lambda one: lr.LambdaLR(one, lambda epoch: -1e-15 if epoch == 3 else 1), ""),  # a rounding error
    (partial(lr.MultiStepLR, milestones=[4], gamma=-1), ""),  # the run has ended before
    (partial(lr.OneCycleLR, max_lr=1, total_steps=80), ""),
    (lambda one: lr.LambdaLR(one, lambda epoch: math.nan if epoch == 3 else 1), "LambdaLR gives the .* nan in epoch 3"),
    (partial(WarmupCosine, warmup_epochs=10), ""),
]


def test_optimizers_and_schedules_that_fail_are_named(tmp_path: Path) -> None:
    def check(method: StudentModule, data: Digits) -> None:
        cases = [*((make, WarmupCosine, line) for make, line in FAIL)]
        cases += [(SGD, make, f"model.lr_scheduler: {line}" * bool(line)) for make, line in SCHEDULES]
        for method.optimizer, method.lr_scheduler, line in cases:
            if not line:
                try_optimizer(method, data, some_parameters())
                continue
            with pytest.raises(ConfigError, match=f"^{line}") as raised:
                try_optimizer(method, data, some_parameters())
            assert "\n" not in str(raised.value)

    within_a_run(tmp_path, check)


def test_a_rate_late_in_a_long_run_is_found(tmp_path: Path) -> None:
    """A schedule that is a function of the number of steps is evaluated over the whole run."""

    class Late(WarmupCosine):
        def factor(self, epoch: float) -> float:
            return -1.0 if epoch > 900 else 1.0

    def check(method: StudentModule, data: Digits) -> None:
        method.lr_scheduler = Late
        with pytest.raises(ConfigError, match=r"Late gives the learning rate -0.05 in step 180\d\d; all"):
            try_optimizer(method, data, some_parameters())

    within_a_run(tmp_path, check, max_epochs=1000)


def test_every_optimizer_of_torch_that_takes_dense_gradients_passes(tmp_path: Path) -> None:
    kinds = [o.Adadelta, o.Adagrad, o.Adam, o.AdamW, o.Adamax, o.ASGD, o.LBFGS, o.NAdam, o.RAdam, o.RMSprop, o.Rprop]

    def check(method: StudentModule, data: Digits) -> None:
        for method.optimizer in (SGD, *kinds):
            try_optimizer(method, data, some_parameters())

    within_a_run(tmp_path, check)


def test_a_fused_optimizer_cannot_clip_in_mixed_precision(tmp_path: Path) -> None:
    def check(method: StudentModule, data: Digits) -> None:
        method.optimizer = partial(o.AdamW, fused=True)
        with pytest.raises(ConfigError, match=r"^model.optimizer: AdamW cannot take a step: .* gradient clipping"):
            try_step(method, data)

    within_a_run(tmp_path, check, precision="bf16-mixed", gradient_clip_val=1.0)


@pytest.mark.parametrize(
    ("rate", "decay", "schedule", "line"),
    [
        (0.0, 0.0, WarmupCosine, "the learning rate is 0 in all steps"),
        (200.0, 0.0, WarmupCosine, "the learning rate rises to 200, which is unusually high"),
        (0.1, 20.0, WarmupCosine, "the product of the learning rate and weight_decay is 2; above 1"),
        (0.1, 5e-4, partial(WarmupMultiStep, milestones=[1]), ""),
    ],
)
def test_odd_rates_are_warned_about(rate: float, decay: float, schedule: Callable, line: str, tmp_path: Path) -> None:
    def check(method: StudentModule, data: Digits) -> None:
        method.optimizer, method.lr_scheduler = partial(o.SGD, lr=rate, weight_decay=decay), schedule
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            try_optimizer(method, data, some_parameters())
        assert [str(one.message)[: len(line)] for one in seen] == (
            [f"model.optimizer: {line}"[: len(line)]] * bool(line)
        )

    within_a_run(tmp_path, check)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"momentum": 1.0}, "momentum: 1 is given; it must be at least 0 and below 1"),
        ({"momentum": 0.9, "dampening": -3}, "dampening: -3 is given; it must be from 0 to 1"),
        ({"weight_decay": 1e30}, r"weight_decay: 1e\+30 is given; it must be from 0 to 1e\+06"),
        ({"weight_decay": math.nan}, "weight_decay: nan is given"),
        ({"lr": math.inf}, "lr: inf is given"),
        ({"lr": math.nan}, "lr: nan is given"),
        ({"maximize": True}, "maximize: true would maximise the loss"),
    ],
)
def test_arguments_that_torch_accepts_but_that_cannot_train(settings: dict, line: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.optimizer\.{line}"):
        build(partial(o.SGD, **{"lr": 0.1, **settings}), WarmupCosine, some_parameters())
