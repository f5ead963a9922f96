"""Missing states of parameters and wrong numbers of steps, in the optimizer's state of a checkpoint."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm.optim
import torch
from helpers.factories import method
from torch import Tensor, nn
from torch.optim import Optimizer

from kd_lightning import methods
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.runs.checkpoint_content import _steps as steps_of
from kd_lightning.runs.optimizer_state import check_optimizer
from kd_lightning.runs.optimizer_steps import Steps

PATH = Path("run/last.ckpt")
SGD, ADAM = partial(torch.optim.SGD, lr=0.1, momentum=0.9), torch.optim.AdamW
GROUPS = [timm.optim.Adan, timm.optim.Lamb]  # they count the steps of a group
Change = Callable[[dict[int, Any]], Any]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


def saved(make: Callable[..., Optimizer], counts: list[int], *, grouped: bool = False) -> dict[str, Any]:
    """Return the state of an optimizer, whose parameters got a gradient in as many of the last steps."""
    trained = [*network().parameters()]
    optimizer = make(groups(trained) if grouped else trained)
    for step in range(max(counts), 0, -1):
        for value, count in zip(trained, counts, strict=True):
            value.grad = torch.randn_like(value) if step <= count else None
        optimizer.step(lambda: torch.tensor(1.0))
    return copy.deepcopy(optimizer.state_dict())


def groups(trained: list[Tensor]) -> list[dict[str, Any]]:
    """Return the parameters as two groups in another order."""
    return [{"params": trained[4:]}, {"params": trained[:4]}]


def check(make: Callable[..., Optimizer], state: dict[str, Any], *, grouped: bool = False, **steps: Any) -> None:
    trained = [*network().parameters()]
    later = [trained[number] for number in steps.pop("later", ())]
    expected = Steps(**{"least": 4, "most": 7, "alike": True, "later": later, **steps})
    given = groups(trained) if grouped else trained
    check_optimizer(make, lambda optimizer: {"lr"}, given, state, PATH, compare=True, steps=expected)


@pytest.mark.parametrize("make", [SGD, ADAM, timm.optim.MADGRAD, timm.optim.Muon, torch.optim.LBFGS, *GROUPS])
@pytest.mark.parametrize("count", [4, 7])
def test_equal_numbers_of_steps_are_accepted(make: Callable[..., Optimizer], count: int) -> None:
    """Fewer steps than those of the run are the steps that a gradient scaler has skipped."""
    check(make, saved(make, [count] * 6))


@pytest.mark.parametrize(("change", "words"), [
    (lambda state: state.pop(2), r"state\.2 is missing"),
    (lambda state: state.update({2: {}}), r"state\.2 is missing"),
    (lambda state: [state.pop(0), state.pop(5)], r"state\.0 is missing"),
    (lambda state: state[2].update(step=torch.tensor(5.0)), r"state\.2\.step is 5, but that of another parameter is 7"),
    (lambda state: state[0].update(step=torch.tensor(5.0)), r"state\.1\.step is 7, but that of another parameter is 5"),
    (lambda state: state[2].update(step=torch.tensor(8.0)), r"state\.2\.step is 8, but the run has done 7 steps"),
    (lambda state: [state[n].update(step=3) for n in state], r"state\.0\.step is 3, but the run has done 7 steps"),
])  # fmt: skip
def test_odd_numbers_of_steps_are_refused(change: Change, words: str) -> None:
    state = saved(ADAM, [7] * 6)
    change(state["state"])
    with pytest.raises(ConfigError, match=rf"^ckpt_path: [^\n]* its entry optimizer_states\.{words}; give another"):
        check(ADAM, state)


def test_a_state_without_the_momentum_of_a_parameter_is_refused() -> None:
    state = saved(SGD, [7] * 6)
    del state["state"][3]
    with pytest.raises(ConfigError, match=r"optimizer_states\.state\.3 is missing"):
        check(SGD, state)


@pytest.mark.parametrize("make", GROUPS)
@pytest.mark.parametrize(("value", "words"), [(8, "is 8, but the run has done 7 steps"), ("x", "has another form")])
def test_odd_numbers_of_steps_of_a_group_are_refused(make: Callable[..., Optimizer], value: Any, words: str) -> None:
    state = saved(make, [7] * 6)
    state["param_groups"][0]["step"] = value
    with pytest.raises(ConfigError, match=rf"param_groups(\.step)? {words}"):
        check(make, state)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("make", [SGD, ADAM, torch.optim.Adagrad])  # Adagrad has all states from the start
def test_parameters_that_the_first_epochs_do_not_train(make: Callable[..., Optimizer], grouped: bool) -> None:
    later = [0, 1, 2, 3]
    for count in (0, 1, 3, 7):
        check(make, saved(make, [count] * 4 + [7, 7], grouped=grouped), grouped=grouped, later=later)
    state = saved(make, [3] * 4 + [7, 7], grouped=grouped)
    numbers = state["param_groups"][-1]["params"][:4] if grouped else later
    del state["state"][numbers[1]]
    with pytest.raises(ConfigError, match=rf"state\.{numbers[1]} is missing"):
        check(make, state, grouped=grouped, later=later)
    with pytest.raises(ConfigError, match=r"state\.\d(\.step)? is (missing|0, but the run has done 7 steps)"):
        check(make, saved(make, [7] * 4 + [0, 0], grouped=grouped), grouped=grouped, later=later)  # the first epochs'


def test_a_method_may_train_parameters_in_some_steps_only() -> None:
    for counts in ([7, 0, 3, 1, 7, 7], [0, 0, 0, 0, 0, 2]):
        check(ADAM, saved(ADAM, counts), alike=False)
        with pytest.raises(ConfigError, match=r"state\.\d is missing"):
            check(ADAM, saved(ADAM, counts))
    state = saved(ADAM, [7] * 6)
    state["state"][0]["step"] = torch.tensor(9.0)
    with pytest.raises(ConfigError, match=r"state\.0\.step is 9, but the run has done 7 steps"):
        check(ADAM, state, alike=False)


class Own(methods.Supervised):
    """A method of another package."""


@pytest.mark.parametrize(("kind", "content", "expected"), [
    (methods.Supervised, {}, (5, True)),
    (methods.Supervised, {"MixedPrecision": {"scale": 2.0}}, (0, True)),
    (methods.Supervised, {"MixedPrecision": {}}, (5, True)),  # bf16-mixed
    (methods.Supervised, {"native_amp_scaling_state": {"scale": 2.0}}, (0, True)),
    (Own, {}, (5, False)),
])  # fmt: skip
def test_the_steps_of_a_run(kind: type[StudentModule], content: dict[str, Any], expected: tuple[int, bool]) -> None:
    steps = steps_of(method(kind), {"global_step": 12, **content}, 3)
    assert (steps.least, steps.alike, steps.most, steps.later) == (*expected, 12, [])
