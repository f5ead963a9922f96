"""Check the state of the schedule of the learning rate in a checkpoint before a run continues with it."""

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from kd_lightning.errors import ConfigError
from kd_lightning.optim import RunSchedule
from kd_lightning.runs.state_form import check_form, differs, odd, same

_COUNTS = ("last_epoch", "_step_count")
_PROGRESS = {
    *("_last_lr", "best", "num_bad_epochs", "cooldown_counter", "T_cur", "T_i", "lr_lambdas"),
    *("_is_initial", "_get_lr_called_within_step", "anchor"),
}
"""Entries that change while a schedule of torch, Lightning or this project is updated; the others are settings."""
_LR = "optimizer_states.param_groups.lr"
_MOST_UPDATES = 100_000
"""Number of updates up to which the learning rates are computed."""
_REMOVED = {"verbose"}
"""Entries of earlier versions of torch."""


def check_schedule(
    schedule: LRScheduler, given: Any, path: Path, *, updates: int, compare: bool, rates: bool, name: str = ""
) -> None:
    """Raise an error if a schedule cannot continue from a state, or if the state has settings of its own.

    Torch takes settings such as T_max from the state and not from the config. Therefore, they must be equal.

    Args:
        schedule: schedule of the run, which has just been built.
        given: state of the schedule in the checkpoint.
        path: path of the checkpoint, for the message.
        updates: largest possible number of updates: optimizer steps or epochs.
        compare: whether the settings must be equal. They need not be if a callback may replace the schedule.
        rates: whether the initial learning rates must be equal as well.
        name: name of the entry, for a schedule that is a part of another one.

    Raises:
        ConfigError: in these cases. The message names the entry.
    """
    is_part, name = bool(name), name or "lr_schedulers"
    if not isinstance(given, Mapping):
        raise odd(path, name, "has another form")
    own = {**schedule.state_dict()}
    if isinstance(schedule, RunSchedule):
        own["anchor"] = (0.0, 0)
    # versions of torch differ in the entries that begin with _
    missing = [key for key in own if key not in given and not key.startswith("_") and key != "anchor"]
    if missing and not given.keys() & own.keys():
        raise odd(path, f"{name}.{missing[0]}", "is missing")
    unknown = [key for key in given if key not in own and not _is_harmless(schedule, key)]
    if missing or unknown:
        problem = f"{missing[0]} is missing" if missing else f"{unknown[0]} does not belong to it"
        raise ConfigError(
            f"ckpt_path: {path} was saved with another schedule than {type(schedule).__name__}: its entry "
            f"{name}.{problem}; choose the schedule of the checkpoint, or load only the student "
            "(model.student.checkpoint)"
        )
    is_known = type(schedule).__module__.startswith(("torch.", "lightning.", "kd_lightning."))
    for key, expected in own.items():
        value, field = given.get(key), f"{name}.{key}"
        if key not in given:
            continue
        if key in _COUNTS:
            _check_count(value, field, path, least=-1 if is_part else 0, most=updates + (key == "_step_count") * 2)
        elif key == "_schedulers":
            parts = getattr(schedule, key, ())
            if not isinstance(value, list) or len(value) != len(parts):
                raise odd(path, field, "has another form")
            for number, (part, state) in enumerate(zip(parts, value, strict=True)):
                settings = {"updates": updates, "compare": compare, "rates": rates}
                check_schedule(part, state, path, **settings, name=f"{field}.{number}")
        elif key == "anchor" and not (isinstance(value, list | tuple) and len(value) == 2):
            raise odd(path, field, "has another form")
        elif key == "_is_initial" and value is not False:
            raise odd(path, field, f"is {value!r}, which it is only while a schedule is built")
        elif key in _PROGRESS or not (is_known and compare) or (key == "base_lrs" and not rates):
            check_form(expected, value, field, path)
        elif not same(expected, value):
            raise differs(path, field, value, expected)


def rates_after(make: Callable[[Optimizer], LRScheduler], optimizer: Optimizer, given: Any) -> list[float]:
    """Return the learning rates of an optimizer's groups after as many updates as a state of a schedule names.

    Return the initial rates for a ReduceLROnPlateau, which can only reduce them. Return an empty list for a
    RunSchedule, which takes its rates from the config, for the schedules of other packages, and for a state that names
    no number of updates or a very large one.

    Args:
        make: function that returns a new schedule of the optimizer.
        optimizer: optimizer with the initial rates. Its groups are restored.
        given: state of the schedule in the checkpoint.
    """
    before = [{**group} for group in optimizer.param_groups]
    try:
        schedule = make(optimizer)
        if isinstance(schedule, ReduceLROnPlateau):
            return [group["lr"] for group in before]
        updates = _updates(given)
        if not type(schedule).__module__.startswith("torch.") or updates is None:
            return []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch expects that the optimizer is stepped as well
            for _ in range(updates):
                schedule.step()
        return [float(group["lr"]) for group in optimizer.param_groups]
    except Exception:  # OneCycleLR cannot do more updates than its total_steps; `check_schedule` names the entry
        return []
    finally:
        for group, values in zip(optimizer.param_groups, before, strict=True):
            group.clear()
            group.update(values)


def _updates(given: Any) -> int | None:
    parts = given.get("_schedulers") if isinstance(given, Mapping) else None  # ChainedScheduler has no count
    states = [given, *(parts if isinstance(parts, list) else ())]
    found = [state["last_epoch"] for state in states if isinstance(state, Mapping) and "last_epoch" in state]
    return found[0] if found and type(found[0]) is int and 0 <= found[0] <= _MOST_UPDATES else None


def check_rates(
    schedule: LRScheduler, given: Mapping[str, Any], groups: list[Any], expected: list[float], path: Path
) -> None:
    """Raise an error if the learning rates in a checkpoint are not those that its schedule has set.

    Args:
        schedule: schedule of the run.
        given: state for which `check_schedule` raises no error.
        groups: groups of the optimizer in the checkpoint.
        expected: rates that `rates_after` returned.
        path: path of the checkpoint, for the message.

    Raises:
        ConfigError: in this case. The message contains both rates.
    """
    if isinstance(schedule, RunSchedule):
        return
    rates, last = [float(group["lr"]) for group in groups], given.get("_last_lr")
    last = [float(rate) for rate in last] if isinstance(last, list) and len(last) == len(rates) else []
    for rate, set_rate in zip(rates, last, strict=False):
        if not math.isclose(rate, set_rate, rel_tol=1e-6):
            raise odd(path, _LR, f"is {rate:g}, but the schedule has set {set_rate:g}")
    for rate, own in zip(rates, expected, strict=False):
        if isinstance(schedule, ReduceLROnPlateau):
            if rate > own * (1 + 1e-6):
                raise odd(path, _LR, f"is {rate:g}, but the schedule only reduces the learning rate {own:g}")
        elif not math.isclose(rate, own, rel_tol=1e-6, abs_tol=1e-12):
            raise odd(path, _LR, f"is {rate:g}, but the schedule of this config gives {own:g} at this moment")


def settings_in_groups(schedule: LRScheduler, *, rates: bool) -> set[str]:
    """Return the names of the settings of an optimizer's groups that a schedule changes during a run.

    Args:
        schedule: schedule of the run.
        rates: whether the initial learning rates must be those of the config.
    """
    parts = [schedule, *getattr(schedule, "_schedulers", ())]
    moves_momentum = any(isinstance(each, OneCycleLR | CyclicLR) and each.cycle_momentum for each in parts)
    own_rates = isinstance(schedule, RunSchedule) or not rates  # a RunSchedule takes its rates from the config
    return {"lr"} | ({"initial_lr"} if own_rates else set()) | ({"momentum", "betas"} if moves_momentum else set())


def _is_harmless(schedule: LRScheduler, key: Any) -> bool:
    """Return whether an entry that the schedule does not have may be in a state; torch sets it as an attribute."""
    if isinstance(schedule, RunSchedule) or not isinstance(key, str) or hasattr(schedule, key):
        return False
    ours = type(schedule).__module__.startswith(("torch.", "lightning."))
    return key in _REMOVED or key.startswith("_") or not ours


def _check_count(given: Any, name: str, path: Path, *, least: int, most: int) -> None:
    if not isinstance(given, int) or isinstance(given, bool):
        raise odd(path, name, "has another form")
    if not least <= given <= most:
        raise odd(path, name, f"is {given}, which is not between 0 and {most}, the number of steps or epochs")
