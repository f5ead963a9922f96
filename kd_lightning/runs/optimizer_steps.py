"""Check the numbers of steps in the state of an optimizer before a run continues with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from kd_lightning.runs.state_form import is_number, odd


class Steps(NamedTuple):
    """Numbers of steps that the state of an optimizer may contain."""

    least: int
    """Smallest number of steps of a parameter that gets a gradient in each step."""
    most: int
    """Number of steps of the run."""
    alike: bool
    """Whether all parameters get a gradient in each step, and therefore have had equally many steps."""
    later: list[Tensor]
    """Parameters that the first epochs do not train. They all have fewer steps or, at first, no state."""


def check_steps(
    states: Mapping[int, Mapping[str, Any]],
    needed: set[int],
    later: set[int],
    counters: set[str],
    steps: Steps,
    path: Path,
    name: str,
) -> None:
    """Raise an error if the state of a parameter is missing, or if its number of steps cannot be that of the run.

    Args:
        states: state of each parameter by its number.
        needed: numbers of the parameters for which the optimizer stores a state.
        later: numbers of `steps.later`.
        counters: names of the entries of a state that count the steps of its parameter.
        steps: possible numbers of steps.
        path: path of the checkpoint, for the message.
        name: name of the entry with the states, for the message.

    Raises:
        ConfigError: in these cases. The message names the entry.
    """
    for members in (needed - later, needed & later):
        stored = [number for number in sorted(members) if states.get(number)]
        missing = members.difference(stored)
        if steps.alike and missing and (stored or (states and not members & later)):
            raise odd(path, f"{name}.{min(missing)}", "is missing")
        least = steps.least if steps.alike and not members & later else 0
        for key in counters:
            counts = {number: states[number][key] for number in stored if key in states[number]}
            for number, count in counts.items():
                check_count(count, f"{name}.{number}.{key}", path, least=least, most=steps.most)
                if steps.alike and float(count) != float(first := next(iter(counts.values()))):
                    problem = f"is {float(count):.10g}, but that of another parameter is {float(first):.10g}"
                    raise odd(path, f"{name}.{number}.{key}", problem)


def check_count(given: Any, name: str, path: Path, *, least: int, most: int) -> None:
    """Raise an error if a value is not a number from `least` to `most`, the number of steps of the run."""
    if not (is_number(given) or (isinstance(given, Tensor) and given.numel() == 1)):
        raise odd(path, name, "has another form")
    if not least <= float(given) <= most:
        raise odd(path, name, f"is {float(given):.10g}, but the run has done {most} steps")
