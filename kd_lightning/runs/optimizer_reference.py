"""What an optimizer stores for its parameters: a reference for the state of an optimizer in a checkpoint."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from kd_lightning.runs.state_form import is_number, same


class Reference(NamedTuple):
    """What an optimizer of this run stores, measured with other parameters of the same shapes."""

    states: dict[torch.Size, dict[str, Any]]
    """State of a parameter by its shape, after one step. Empty if the optimizer stores one state for all parameters."""
    never_negative: set[str]
    """Names of tensors that have the shape of their parameter and contain no negative number, such as second moments,
    and names of such numbers."""
    counters: set[str]
    """Names of the values of groups that change at a step."""
    steps: set[str]
    """Names of the numbers, in the state of a parameter or in a group, that count the steps."""


def measure(build: Callable[[Iterable[Tensor]], Optimizer], shapes: list[torch.Size]) -> Reference:
    """Return what an optimizer stores. Step it with random gradients: once with the shapes, then with small ones."""
    distinct = [*dict.fromkeys(shapes)]
    small = [torch.Size((8,) * dims if dims > 1 else (64,) * dims) for dims in {len(each) for each in distinct}]
    try:
        once, states = _stepped(build, distinct, 1)
        optimizer, after_steps = _stepped(build, small, 3)
        initial = build([Parameter(torch.zeros(shape)) for shape in small]).param_groups
    except Exception:  # an optimizer with other needs than a gradient; its state is checked without a reference
        return Reference({}, set(), set(), set())
    counters = {
        key
        for before, group in zip(initial, optimizer.param_groups, strict=True)
        for key, value in group.items()
        if key != "params" and not (key in before and same(before[key], value))
    }
    if len(states) < len(distinct):  # LBFGS stores one state for all parameters
        return Reference({}, set(), counters, set())
    names = {key for values in after_steps.values() for key in values}
    never_negative = {key for key in names if _never_negative(key, after_steps)}
    steps = _equal(1, [*states.values(), *once.param_groups])
    steps &= _equal(3, [*after_steps.values(), *optimizer.param_groups])
    return Reference(states, never_negative, counters, steps)


def _equal(number: int, tables: list[dict[str, Any]]) -> set[str]:
    """Return the names of the entries that are this number in each table that has them."""
    found = {(key, _is_scalar(value) and float(value) == number) for each in tables for key, value in each.items()}
    return {key for key, holds in found if holds and (key, False) not in found}


def _is_scalar(value: Any) -> bool:
    return is_number(value) or (isinstance(value, Tensor) and not value.ndim)


def _never_negative(key: str, states: dict[torch.Size, dict[str, Any]]) -> bool:
    """Return whether a value, after steps with random gradients, is negative for none of the parameters.

    A single number counts only if it is equal for all parameters, and thus does not depend on the gradients.
    """
    found = [(shape, torch.as_tensor(values[key])) for shape, values in states.items() if _has_numbers(values, key)]
    tensors = [value for shape, value in found if value.shape == shape and value.ndim]
    numbers = {float(value) for _, value in found if not value.ndim}
    if tensors and len(tensors) == len(found):
        return all(value.min() >= 0 for value in tensors) and any(value.max() > 0 for value in tensors)
    return not tensors and len(numbers) == 1 and len(states) > 1 and min(numbers) > 0


def _has_numbers(values: dict[str, Any], key: str) -> bool:
    return key in values and (is_number(values[key]) or isinstance(values[key], Tensor))


def _stepped(
    build: Callable[[Iterable[Tensor]], Optimizer], shapes: list[torch.Size], steps: int
) -> tuple[Optimizer, dict[torch.Size, dict[str, Any]]]:
    """Return an optimizer after some steps, and the state of each of its parameters, which have these shapes."""
    generator = torch.Generator().manual_seed(0)
    parameters = [Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    optimizer = build(parameters)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step(lambda: torch.zeros(()))
    pairs = zip(shapes, parameters, strict=True)
    return optimizer, {shape: {**optimizer.state[each]} for shape, each in pairs if each in optimizer.state}
