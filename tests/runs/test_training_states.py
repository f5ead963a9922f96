"""States of optimizers and schedules: each that a run saves is accepted, and odd ones are refused with their names."""

import copy
import inspect
import io
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm.optim
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.swa_utils import SWALR

from kd_lightning.errors import ConfigError
from kd_lightning.optim import Length, RunSchedule, WarmupCosine, WarmupMultiStep
from kd_lightning.runs.optimizer_state import check_optimizer
from kd_lightning.runs.optimizer_steps import Steps
from kd_lightning.runs.schedule_state import check_rates, check_schedule, rates_after, settings_in_groups

PATH = Path("run/last.ckpt")
State = dict[str, Any]


def network(kind: type | None = None) -> nn.Module:
    torch.manual_seed(0)
    if kind is torch.optim.Muon:  # takes matrices alone
        return nn.Sequential(nn.Linear(6, 5, bias=False), nn.Linear(5, 3, bias=False))
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5, 3), nn.Linear(3, 3))


def train(optimizer: Optimizer, steps: int, after: Callable[[int], None] = lambda step: None) -> None:
    """Do steps with gradients of each sign. The last parameter never gets a gradient."""
    generator = torch.Generator().manual_seed(1)
    trained = [each for group in optimizer.param_groups for each in group["params"]]
    for step in range(steps):
        for each in trained[:-1]:
            each.grad = torch.randn(each.shape, generator=generator).to(each.dtype)
        optimizer.step(lambda: torch.tensor(1.0))
        after(step)


def stored(state: Any) -> Any:
    """A state after it was written and read."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


NEEDS = {torch.optim.SparseAdam: "sparse gradients", timm.optim.Adahessian: "second derivatives"}
SETTINGS: dict[type, list[dict[str, Any]]] = {
    torch.optim.SGD: [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}],
    torch.optim.Adam: [{}, {"amsgrad": True}, {"foreach": False}, {"maximize": True}],
    torch.optim.AdamW: [{}, {"amsgrad": True, "fused": True}],
    torch.optim.RMSprop: [{}, {"centered": True, "momentum": 0.9}],
    timm.optim.AdamWLegacy: [{"amsgrad": True}],
    timm.optim.Adan: [{}, {"no_prox": True, "caution": True}],
}


def kinds(module: Any) -> list[type]:
    found = {each for _, each in inspect.getmembers(module, inspect.isclass) if issubclass(each, Optimizer)}
    return sorted(found - {Optimizer, timm.optim.Lookahead, *NEEDS}, key=lambda each: each.__name__)


TORCH = kinds(torch.optim)
TIMM = [kind for kind in kinds(timm.optim) if kind.__module__.startswith("timm")]
OPTIMIZERS = [partial(kind, **given) for kind in TORCH + TIMM for given in SETTINGS.get(kind, [{}])]


def ident(value: Any) -> str | None:
    if isinstance(value, partial):
        module = value.func.__module__.partition(".")[0]
        return f"{module}.{value.func.__name__}({', '.join(f'{k}={_named(v)}' for k, v in value.keywords.items())})"
    return None


def _named(value: Any) -> Any:
    """Return a value without addresses in memory, which differ between the processes of a test run."""
    return getattr(value, "__name__", value)


def build(make: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    kind = make.func if isinstance(make, partial) else make
    rate = {} if inspect.signature(kind).parameters["lr"].default is None else {"lr": 0.01}
    return lambda parameters: make(parameters, **rate)


def check(make: Callable[..., Optimizer], saved: State, schedule: Callable | None = None, **kwargs: Any) -> None:
    def finish(optimizer: Optimizer) -> set[str]:
        return settings_in_groups(schedule(optimizer), rates=True) if schedule else {"lr"}

    kind = make.func if isinstance(make, partial) else None
    parameters = [*network(kind).parameters()]
    before = torch.random.get_rng_state()
    check_optimizer(build(make), finish, parameters, saved, PATH, **{"compare": True, **kwargs})
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("make", OPTIMIZERS, ids=ident)
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_every_state_that_an_optimizer_saves_is_accepted(make: partial, steps: int) -> None:
    optimizer = build(make)([*network(make.func).parameters()])
    train(optimizer, steps)
    check(make, stored(optimizer.state_dict()))
    check(make, stored(optimizer.state_dict()), steps=Steps(least=steps, most=steps, alike=False, later=[]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_states_in_another_precision_are_accepted(dtype: torch.dtype) -> None:
    make = partial(torch.optim.SGD, momentum=0.9)
    optimizer = build(make)([*network().to(dtype).parameters()])
    train(optimizer, 1)
    check(make, stored(optimizer.state_dict()))


def test_a_state_of_a_version_of_torch_with_fewer_settings_is_accepted() -> None:
    optimizer = torch.optim.Adam([*network().parameters()], lr=0.01)
    train(optimizer, 2)
    saved = stored(optimizer.state_dict())
    for name in ("foreach", "fused", "capturable", "differentiable", "maximize", "decoupled_weight_decay"):
        saved["param_groups"][0].pop(name)
    check(partial(torch.optim.Adam), saved)


def _put(*place: Any, value: Any) -> Callable[[State], State]:
    def change(state: State) -> State:
        inner = state
        for key in place[:-1]:
            inner = inner[key]
        if value is KeyError:
            del inner[place[-1]]
        else:
            inner[place[-1]] = value
        return state

    return change


NAN = torch.full((5, 3, 3, 3), math.nan)
SGD = partial(torch.optim.SGD, momentum=0.9, weight_decay=1e-4)
ADAM = partial(torch.optim.AdamW)
BUFFER, GROUP = ("state", 0, "momentum_buffer"), ("param_groups", 0)
ODD: list[tuple[str, partial, Callable[[State], Any], str]] = [
    ("text", SGD, lambda s: "x", "entry optimizer_states has another form"),
    ("a buffer of another shape", SGD, _put(*BUFFER, value=torch.zeros(2)),
     "optimizer_states.state.0.momentum_buffer has the shape (2,) instead of (5, 3, 3, 3)"),
    ("a buffer of text", SGD, _put(*BUFFER, value="x"), "state.0.momentum_buffer has another form"),
    ("a buffer that is None", SGD, _put(*BUFFER, value=None), "state.0.momentum_buffer is None"),
    ("a buffer that is a number", SGD, _put(*BUFFER, value=3.0), "state.0.momentum_buffer has another form"),
    ("a buffer that is a list", SGD, _put(*BUFFER, value=[1.0]), "state.0.momentum_buffer has another form"),
    ("a buffer that is NaN", SGD, _put(*BUFFER, value=NAN), "momentum_buffer contains numbers that are not finite"),
    ("a complex buffer", SGD, _put(*BUFFER, value=torch.zeros(5, 3, 3, 3, dtype=torch.complex64)), "another form"),
    ("a parameter of text", SGD, _put("state", 0, value="x"), "entry optimizer_states.state.0 has another form"),
    ("another parameter", SGD, _put("state", 99, value={}), "state.99 belongs to no parameter of this run"),
    ("a parameter twice", SGD, lambda s: _put(*GROUP, "params", value=[0] * len(s["param_groups"][0]["params"]))(s),
     "has other groups of parameters"),
    ("a further entry of text", SGD, _put("state", 0, "more", value="x"), "state.0.more has another form"),
    ("no second moment", ADAM, _put("state", 1, "exp_avg_sq", value=KeyError), "state.1.exp_avg_sq is missing"),
    ("a negative second moment", ADAM, _put("state", 1, "exp_avg_sq", value=torch.full((5,), -1.0)),
     "state.1.exp_avg_sq contains negative numbers"),
    ("a negative step", ADAM, _put("state", 1, "step", value=torch.tensor(-2.0)), "state.1.step contains negative"),
    ("a step of text", ADAM, _put("state", 1, "step", value="x"), "state.1.step has another form"),
    ("a step that is infinite", ADAM, _put("state", 1, "step", value=torch.tensor(math.inf)), "not finite"),
    ("a negative weight decay", SGD, _put(*GROUP, "weight_decay", value=-5),
     "entry optimizer_states.param_groups.weight_decay is -5, but this config gives 0.0001"),
    ("maximize", SGD, _put(*GROUP, "maximize", value=True), "maximize is True, but this config gives False"),
    ("nesterov", SGD, _put(*GROUP, "nesterov", value=True), "nesterov is True, but this config gives False"),
    ("other momentum", SGD, _put(*GROUP, "momentum", value=0.5), "momentum is 0.5, but this config gives 0.9"),
    ("other betas", ADAM, _put(*GROUP, "betas", value=(0.5, 0.5)), "betas is (0.5, 0.5), but this config gives (0.9"),
    ("betas of text", ADAM, _put(*GROUP, "betas", value="x"), "betas is 'x', but this config gives (0.9"),
    ("an eps that is NaN", ADAM, _put(*GROUP, "eps", value=math.nan), "eps is nan, but this config gives 1e-08"),
    ("a rate that is NaN", SGD, _put(*GROUP, "lr", value=math.nan), "param_groups.lr is nan"),
    ("a negative rate", SGD, _put(*GROUP, "lr", value=-0.1), "param_groups.lr is -0.1"),
    ("a rate of text", SGD, _put(*GROUP, "lr", value="x"), "param_groups.lr has another form"),
    ("a further setting", SGD, _put(*GROUP, "caution", value=True), "caution is no setting of this run's optimizer"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "make", "change", "words"), ODD, ids=[what for what, *_ in ODD])
def test_odd_states_of_optimizers(what: str, make: partial, change: Callable[[State], Any], words: str) -> None:
    optimizer = build(make)([*network().parameters()])
    train(optimizer, 2)
    with pytest.raises(ConfigError, match=r"^ckpt_path: [^\n]*$") as raised:
        check(make, change(stored(optimizer.state_dict())))
    assert words in str(raised.value)


def test_settings_that_a_callback_may_change_are_not_compared() -> None:
    optimizer = build(SGD)([*network().parameters()])
    saved = stored(_put(*GROUP, "weight_decay", value=0.5)(optimizer.state_dict()))
    check(SGD, saved, compare=False)
    with pytest.raises(ConfigError, match=r"weight_decay is -0\.5"):
        check(SGD, _put(*GROUP, "weight_decay", value=-0.5)(saved), compare=False)


def _sequential(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(optimizer, T_max=9)]
    return lr_scheduler.SequentialLR(optimizer, parts, [3])


def _chained(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    parts = [lr_scheduler.ConstantLR(optimizer, 0.1, 2), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    return lr_scheduler.ChainedScheduler(parts, optimizer)


SCHEDULES: list[Callable[[Optimizer], lr_scheduler.LRScheduler]] = [
    partial(WarmupCosine, warmup_epochs=1),
    partial(WarmupMultiStep, milestones=[0.5]),
    partial(lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 0.9**epoch),
    partial(lr_scheduler.MultiplicativeLR, lr_lambda=lambda epoch: 0.9),
    partial(lr_scheduler.StepLR, step_size=2),
    partial(lr_scheduler.MultiStepLR, milestones=[2, 4]),
    partial(lr_scheduler.ConstantLR, factor=0.1),
    partial(lr_scheduler.LinearLR, start_factor=0.1),
    partial(lr_scheduler.ExponentialLR, gamma=0.9),
    partial(lr_scheduler.PolynomialLR, total_iters=5),
    partial(lr_scheduler.CosineAnnealingLR, T_max=5),
    partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=2, T_mult=2),
    partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=9),
    partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=9, cycle_momentum=False, three_phase=True),
    partial(lr_scheduler.CyclicLR, base_lr=0.1, max_lr=0.3, step_size_up=3),
    partial(lr_scheduler.CyclicLR, base_lr=0.1, max_lr=0.3, step_size_up=3, mode="exp_range", gamma=0.9),
    partial(lr_scheduler.CyclicLR, base_lr=0.1, max_lr=0.3, scale_fn=lambda x: 1.0),
    partial(ReduceLROnPlateau, monitor="val/acc", patience=1, mode="max"),
    partial(ReduceLROnPlateau, monitor="val/ce", patience=1, cooldown=1),
    partial(SWALR, swa_lr=0.05, anneal_epochs=3),
    partial(lambda optimizer: _sequential(optimizer)),
    partial(lambda optimizer: _chained(optimizer)),
]


def begun(make: Callable, optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    schedule = make(optimizer)
    if isinstance(schedule, RunSchedule):
        schedule.begin(lambda: Length(4, math.inf, 2))
    return schedule


def updated(make: Callable, optimizer: Optimizer, steps: int) -> lr_scheduler.LRScheduler:
    """A schedule after some updates, with a monitored value that becomes worse."""
    schedule = begun(make, optimizer)
    plateau = isinstance(schedule, ReduceLROnPlateau)
    train(optimizer, steps, lambda step: schedule.step(*[float(step % 3)] * plateau))
    return schedule


@pytest.mark.parametrize("schedule", SCHEDULES, ids=ident)
@pytest.mark.parametrize("make", [SGD, ADAM], ids=ident)
def test_every_state_that_a_schedule_saves_is_accepted(schedule: Callable, make: partial) -> None:
    for steps in (0, 1, 3, 7):
        optimizer = build(make)([*network().parameters()])
        state = stored(updated(schedule, optimizer, steps).state_dict())
        new = build(make)([*network().parameters()])
        expected = rates_after(schedule, new, state)
        now = schedule(new)
        check_rates(now, state, stored(optimizer.state_dict())["param_groups"], expected, PATH)
        check_schedule(now, state, PATH, updates=steps, compare=True, rates=True)
        check(make, stored(optimizer.state_dict()), schedule)


COSINE, ONE = partial(lr_scheduler.CosineAnnealingLR, T_max=5), SCHEDULES[12]
ODD_SCHEDULES: list[tuple[str, Callable, Callable[[State], Any], str]] = [
    *((f"{name} with an empty table", make, lambda s: {}, "is missing")
      for name, make in (("WarmupCosine", WarmupCosine), ("CosineAnnealingLR", COSINE), ("plateau", SCHEDULES[17]))),
    *((f"{name} with text", make, lambda s: "x", "entry lr_schedulers has another form")
      for name, make in (("WarmupCosine", WarmupCosine), ("CosineAnnealingLR", COSINE))),
    *((f"last_epoch {value!r}", make, _put("last_epoch", value=value), words)
      for make in (WarmupCosine, COSINE)
      for value, words in ((-1, "is -1, which is not between 0 and 4"), (99, "is 99, which is not between 0 and 4"),
                           (1.5, "another form"), ("x", "another form"), (None, "another form"), (True, "another"))),
    ("_step_count", COSINE, _put("_step_count", value=-1), "lr_schedulers._step_count is -1"),
    ("_step_count of text", COSINE, _put("_step_count", value="x"), "lr_schedulers._step_count has another form"),
    ("base_lrs", COSINE, _put("base_lrs", value=[5.0]), "base_lrs is [5.0], but this config gives [0.01]"),
    ("two base_lrs", COSINE, _put("base_lrs", value=[0.01] * 2), "base_lrs is [0.01, 0.01], but this config gives"),
    ("T_max", COSINE, _put("T_max", value=500), "lr_schedulers.T_max is 500, but this config gives 5"),
    ("a schedule that is being built", COSINE, _put("_is_initial", value=True), "lr_schedulers._is_initial is True"),
    ("a rate that is NaN", COSINE, _put("_last_lr", value=[math.nan]), "lr_schedulers._last_lr is nan"),
    ("a function", COSINE, _put("get_lr", value=5), "lr_schedulers.get_lr does not belong to it"),
    ("another optimizer", COSINE, _put("optimizer", value=5), "lr_schedulers.optimizer does not belong"),
    ("another schedule", WarmupCosine, _put("T_max", value=5), "lr_schedulers.T_max does not belong to it; choose"),
    ("yet another", COSINE, lambda s: {"last_epoch": 3}, "another schedule than CosineAnnealingLR: its entry lr_"),
    ("an anchor of text", WarmupCosine, _put("anchor", value="x"), "anchor has another form"),
    ("a negative anchor", WarmupCosine, _put("anchor", value=(-1.0, 2)), "anchor is -1.0"),
    ("total_steps", ONE, _put("total_steps", value=90), "total_steps is 90, but this config gives 9"),
    ("phases", ONE, lambda s: _put("_schedule_phases", 0, "end_step", value=9)(s), "_schedule_phases is"),
    ("patience", SCHEDULES[17], _put("patience", value=99), "patience is 99, but this config gives 1"),
    ("bad epochs", SCHEDULES[17], _put("num_bad_epochs", value=-3), "num_bad_epochs is -3"),
    ("a best value of text", SCHEDULES[17], _put("best", value="x"), "lr_schedulers.best has another form"),
    ("a best value that is NaN", SCHEDULES[17], _put("best", value=math.nan), "lr_schedulers.best is nan"),
    ("a part of text", SCHEDULES[20], _put("_schedulers", 1, value="x"), "lr_schedulers._schedulers.1 has another"),
    ("a part of a part", SCHEDULES[20], _put("_schedulers", 1, "T_max", value=1), "_schedulers.1.T_max is 1, but"),
    ("one part", SCHEDULES[21], lambda s: s | {"_schedulers": s["_schedulers"][:1]}, "_schedulers has another form"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "make", "change", "words"), ODD_SCHEDULES, ids=[what for what, *_ in ODD_SCHEDULES])
def test_odd_states_of_schedules(what: str, make: Callable, change: Callable[[State], Any], words: str) -> None:
    state = stored(updated(make, build(SGD)([*network().parameters()]), 4).state_dict())
    now = make(build(SGD)([*network().parameters()]))
    check_schedule(now, copy.deepcopy(state), PATH, updates=4, compare=True, rates=True)
    with pytest.raises(ConfigError, match=r"^ckpt_path: [^\n]*$") as raised:
        check_schedule(now, change(state), PATH, updates=4, compare=True, rates=True)
    assert words in str(raised.value)


@pytest.mark.parametrize("schedule", SCHEDULES[2:], ids=ident)  # the first two take their rates from the config
def test_a_learning_rate_that_the_schedule_has_not_set_is_refused(schedule: Callable) -> None:
    optimizer = build(SGD)([*network().parameters()])
    state = stored(updated(schedule, optimizer, 3).state_dict())
    new = build(SGD)([*network().parameters()])
    expected, now = rates_after(schedule, new, state), schedule(new)
    groups = _put(*GROUP, "lr", value=5.0)(stored(optimizer.state_dict()))["param_groups"]
    for changed in (state, _put("_last_lr", value=[5.0])(copy.deepcopy(state))):
        with pytest.raises(ConfigError, match=r"param_groups\.lr is 5, but the schedule "):
            check_rates(now, changed, groups, expected, PATH)


def test_a_rate_of_one_cycle_is_that_of_the_config() -> None:
    optimizer = build(SGD)([*network().parameters()])
    updated(ONE, optimizer, 3)
    saved = stored(optimizer.state_dict())
    with pytest.raises(ConfigError, match=r"param_groups\.max_lr is 7\.0, but this config gives 0\.1"):
        check(SGD, _put(*GROUP, "max_lr", value=7.0)(saved), ONE)


def test_scaled_rates_may_differ() -> None:
    """A run with lr_batch_size may be resumed on another number of devices, and keeps its rates."""
    state = _put("base_lrs", value=[0.08])(COSINE(build(SGD)([*network().parameters()])).state_dict())
    now = COSINE(build(SGD)([*network().parameters()]))
    check_schedule(now, state, PATH, updates=0, compare=True, rates=False)
    with pytest.raises(ConfigError, match=r"base_lrs is -0\.08"):
        check_schedule(now, state | {"base_lrs": [-0.08]}, PATH, updates=0, compare=True, rates=False)
