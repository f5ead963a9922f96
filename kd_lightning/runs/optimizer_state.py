"""Check the state of the optimizer in a checkpoint before a run continues with it."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from kd_lightning.errors import one_line
from kd_lightning.runs.optimizer_reference import measure
from kd_lightning.runs.optimizer_steps import Steps, check_count, check_steps
from kd_lightning.runs.state_form import check_form, differs, is_number, odd, same

_STATE, _GROUPS = "optimizer_states.state", "optimizer_states.param_groups"


def check_optimizer(
    build: Callable[[Iterable[Tensor]], Optimizer],
    finish: Callable[[Optimizer], set[str]],
    trained: list[Any],
    saved: Any,
    path: Path,
    *,
    compare: bool,
    steps: Steps | None = None,
) -> None:
    """Raise an error if an optimizer of this run cannot continue from a state, or if the state has other settings.

    Torch takes settings such as weight_decay from the state and not from the config. Therefore, they must be equal.
    Nothing of the state is loaded into an optimizer that is stepped, and no parameter is changed.

    Args:
        build: function that builds the run's optimizer for parameters.
        finish: function that adds to an optimizer what a schedule adds, and returns the names of the settings that the
            schedule changes during the run.
        trained: trained parameters of the run, or groups of them, in the order of the optimizer.
        saved: state of the optimizer in the checkpoint.
        path: path of the checkpoint, for the message.
        compare: whether the settings must be equal. They need not be if a callback of another package may change them.
        steps: possible numbers of steps of the parameters. None if they are unknown.

    Raises:
        ConfigError: in these cases. The message names the entry.
    """
    given, state = (saved.get("param_groups"), saved.get("state")) if isinstance(saved, Mapping) else (None, None)
    if not (isinstance(given, list) and isinstance(state, Mapping) and all(isinstance(g, Mapping) for g in given)):
        raise odd(path, "optimizer_states", "has another form")
    copies = [_copied(each) for each in trained]
    originals = dict(zip(map(id, _flat(copies)), _flat(trained), strict=True))
    optimizer = build(copies)
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    numbers = [number for group in given for number in _listed(group.get("params"))]
    if [len(_listed(group.get("params"))) for group in given] != sizes or sorted(numbers) != [*range(len(numbers))]:
        raise odd(path, _GROUPS, "has other groups of parameters than this run")
    with torch.random.fork_rng(devices=[]):
        reference = measure(build, [value.shape for value in parameters])
    changing = finish(optimizer) | reference.counters
    _check_groups(optimizer, given, path, changing, compare=compare)
    shapes = dict(zip(numbers, (value.shape for value in parameters), strict=True))
    for number, values in state.items():
        name = f"{_STATE}.{number}"
        if number not in shapes:
            raise odd(path, name, "belongs to no parameter of this run")
        if not isinstance(values, Mapping):
            raise odd(path, name, "has another form")
        expected = reference.states.get(shapes[number], {})
        if missing := [key for key in expected if key not in values and values]:
            raise odd(path, f"{name}.{missing[0]}", "is missing")
        for key, value in values.items():
            low = 0.0 if key in reference.never_negative else None
            _check_value(expected.get(key, _UNKNOWN), value, f"{name}.{key}", path, low=low)
    if steps:
        needed = {number for number, shape in shapes.items() if reference.states.get(shape)}
        unlike = {id(each) for each in steps.later}
        pairs = zip(numbers, parameters, strict=True)
        later = {number for number, value in pairs if id(originals.get(id(value))) in unlike}
        check_steps(state, needed, later, reference.steps, steps, path, _STATE)
        for key in reference.steps:
            for group in (each for each in given if key in each):
                check_count(group[key], f"{_GROUPS}.{key}", path, least=steps.least, most=steps.most)


def _copied(value: Tensor | dict[str, Any]) -> Parameter | dict[str, Any]:
    """Return a parameter with the same values, or a group of such parameters."""
    if isinstance(value, dict):
        return {**value, "params": [Parameter(each.detach()) for each in value["params"]]}
    return Parameter(value.detach())


def _flat(values: list[Any]) -> list[Tensor]:
    """Return the parameters of a list of parameters or of groups."""
    return [each for value in values for each in (value["params"] if isinstance(value, dict) else [value])]


def _listed(value: Any) -> list[int]:
    return value if isinstance(value, list) and all(type(number) is int for number in value) else []


def _check_groups(optimizer: Optimizer, given: list[Any], path: Path, changing: set[str], *, compare: bool) -> None:
    """Compare the groups of a state with those of an optimizer, which afterwards has the groups of the state."""
    expected = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    try:  # torch adds the settings that an earlier version of torch did not have
        optimizer.load_state_dict({"state": {}, "param_groups": deepcopy(given)})
    except Exception as error:  # the class of the error depends on the optimizer
        raise odd(path, _GROUPS, f"has another form ({one_line(error)})") from error
    for own, group in zip(expected, optimizer.param_groups, strict=True):
        for key, value in own.items():
            if key not in group:
                raise odd(path, f"{_GROUPS}.{key}", "is missing")
            if key in changing or not compare:
                check_form(_as_float(value), _as_float(group[key]), f"{_GROUPS}.{key}", path)
            elif not same(value, group[key]):
                raise differs(path, f"{_GROUPS}.{key}", group[key], value)
        unknown = group.keys() - own.keys() - changing - {"params", "param_names"}
        if unknown and compare:
            raise odd(path, f"{_GROUPS}.{min(map(str, unknown))}", "is no setting of this run's optimizer")


def _as_float(value: Any) -> Any:
    """Return numbers as floats, because a schedule may change 0 to 0.1; return other values unchanged."""
    return float(value) if is_number(value) else value


_UNKNOWN = object()
"""The expected value of an entry that the optimizer does not yet have after its first step."""


def _check_value(expected: Any, given: Any, name: str, path: Path, *, low: float | None = None) -> None:
    """Raise an error if a value of a state has another form or shape, is not finite, or is below `low`."""
    kind, is_known = _kind(given), expected is not _UNKNOWN and expected is not None
    if kind == "other" or (is_known and kind != _kind(expected)):
        raise odd(path, name, "is None" if given is None else "has another form")
    if kind == "table":
        for value in given.values() if isinstance(given, Mapping) else given:
            _check_value(_UNKNOWN, value, name, path)
    elif kind in ("tensor", "number"):
        value = torch.as_tensor(given)
        if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
            raise odd(path, name, "has another form")
        if kind == "tensor" and is_known and value.shape != expected.shape:
            raise odd(path, name, f"has the shape {tuple(value.shape)} instead of {tuple(expected.shape)}")
        if not value.isfinite().all():
            raise odd(path, name, "contains numbers that are not finite")
        if low is not None and value.numel() and value.min() < low:
            raise odd(path, name, "contains negative numbers")


def _kind(value: Any) -> str:
    """Return the kind of a value in a state. A tensor without dimensions is a number, as some versions store steps."""
    if isinstance(value, Tensor):
        return "tensor" if value.ndim else "number"
    kinds = {"none": value is None, "flag": isinstance(value, bool), "number": is_number(value)}
    kinds["table"] = isinstance(value, Mapping | list | tuple)
    return next((kind for kind, holds in kinds.items() if holds), "other")
