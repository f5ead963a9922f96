"""Restore the state of a method after a trial: weights, buffers, gradients, attributes and random numbers."""

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from lightning.pytorch import LightningModule
from torch import Tensor, nn

Undo = Callable[[], Any]


@contextmanager
def unchanged(method: nn.Module) -> Iterator[None]:
    """Restore everything that the block changes in a method's modules, and the states of the random generators.

    Values that the method logs in the block are ignored, because Lightning can log only within a step.

    Parameters, buffers and other tensors get their values, device, dtype and gradients back. Attributes get their
    previous values, also inside lists, tuples, dicts, sets and deques. The weights of frozen networks are not copied,
    because a step does not change them. Only their device and dtype are restored.
    """
    networks = [n for each in method.modules() for n in getattr(each, "frozen_networks", {}).values()]
    modules = dict.fromkeys(module for each in (method, *networks) for module in each.modules())
    frozen = {id(module) for each in modules if getattr(each, "frozen", False) for module in each.modules()}
    seen: set[int] = set()
    undo = [step for m in modules for step in _steps(vars(m), seen, copies=id(m) not in frozen)]
    generators = _collect_rng_states()
    for module in modules:
        if isinstance(module, LightningModule):
            module.log = module.log_dict = lambda *args, **kwargs: None
    try:
        yield
    finally:
        _set_rng_states(generators)
        for step in undo:
            step()


def _steps(value: Any, seen: set[int], *, copies: bool) -> Iterator[Undo]:
    """Yield the functions that restore a value in place, and those of the values that it contains."""
    if isinstance(value, str | int | float | None) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        if value.is_inference():  # a metric has this state after a validation; no training step can change it in place
            return
        yield _tensor(value, copies=copies)
    elif isinstance(value, dict | list | tuple | set | deque):
        content = value.copy() if isinstance(value, dict) else tuple(value)
        if not isinstance(value, tuple):
            yield lambda: _refill(value, content)
        for inner in content.values() if isinstance(content, dict) else content:
            yield from _steps(inner, seen, copies=copies)
    elif isinstance(value, torch.Generator):
        state = value.get_state()
        yield lambda: value.set_state(state)
    elif isinstance(value, random.Random):
        kept = value.getstate()
        yield lambda: value.setstate(kept)
    elif isinstance(value, np.random.Generator):
        before = value.bit_generator.state
        yield lambda: setattr(value.bit_generator, "state", before)


def _refill(container: Any, content: Any) -> None:
    container.clear()
    (container.update if isinstance(container, dict | set) else container.extend)(content)


def _tensor(value: Tensor, *, copies: bool) -> Undo:
    data, grad = value.data, value.grad if value.is_leaf else None
    content = data.clone() if copies else None
    undo_grad = None if grad is None else _tensor(grad, copies=copies)

    def restore() -> None:
        value.data = data
        if content is not None:
            data.copy_(content)
        if undo_grad is not None:
            undo_grad()
        if value.is_leaf:
            value.grad = grad

    return restore
