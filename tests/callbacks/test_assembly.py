"""The first look at a run: the order of its checks."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from kd_lightning.callbacks import NonFiniteGuard, assembly

_CHECKPOINT = ["read_once", "check_states", "check_resumable", "check_inputs", "forget"]


@pytest.mark.parametrize("ckpt_path", [None, "last.ckpt"])
@pytest.mark.parametrize("tries", [True, False])
def test_the_first_look_checks_in_this_order(tries: bool, ckpt_path: str | None, monkeypatch) -> None:
    """Monitored values are checked last, and only if the trial of a step has found which values are logged."""
    called: list[str] = []

    def noting(name: str, result: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: called.append(name) or result

    for name in (*_CHECKPOINT, "describe", "freeze_unreached", "check_monitors"):
        monkeypatch.setattr(assembly, name, noting(name, {}))
    monkeypatch.setattr(assembly, "try_step", noting("try_step", set()))  # a step that logs no value is a trial, too
    protocol, guard = SimpleNamespace(allow_changed_inputs=False), NonFiniteGuard(try_step=tries)
    method = SimpleNamespace(on_data_ready=noting("on_data_ready", None))  # a bank needs the number of images
    assembly.first_look(method, protocol, guard, ckpt_path=ckpt_path)(None)
    expected = [
        "describe",
        "on_data_ready",
        "try_step" if tries else "freeze_unreached",
        *(_CHECKPOINT if ckpt_path else []),
    ]
    assert called == expected + ["check_monitors"] * tries
