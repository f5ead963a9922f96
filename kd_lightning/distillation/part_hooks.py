"""Hooks of the parts of `Combined`, which run after the hooks of the combination."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from lightning.pytorch import LightningModule

from kd_lightning.distillation.distiller import Distiller

HOOKS = {"teardown", *(name for name in dir(LightningModule) if name.startswith("on_") and "_model_" not in name)} - {
    *("on_before_batch_transfer", "on_after_batch_transfer", "on_gpu"),
    *("on_save_checkpoint", "on_load_checkpoint"),
}
"""Lightning's hooks that `Combined` also calls on each part, with unchanged arguments.

The two hooks for checkpoints are excluded, because `Combined` calls them with other arguments.
"""


def forward_hooks(kind: type[Distiller]) -> type[Distiller]:
    """Decorate a class so that its `HOOKS` also run for its parts, except hooks that the class itself defines."""
    for hook in HOOKS - {*vars(kind)}:
        setattr(kind, hook, _with_parts(hook))
    return kind


def _with_parts(hook: str) -> Callable[..., Any]:
    base_hook = getattr(Distiller, hook)

    @wraps(base_hook)
    def run(self: Distiller, *args: Any, **kwargs: Any) -> Any:
        results = [base_hook(self, *args, **kwargs)]
        for part in self.parts_with.get(hook, ()):
            part._current_fx_name = self._current_fx_name  # the part needs this name when it logs
            results.append(getattr(part, hook)(*args, **kwargs))
        return next((result for result in results if result is not None), None)

    run.__doc__ = None  # Lightning's docstrings refer to pages of its own documentation
    return run


@contextmanager
def checkpoint_of_part(checkpoint: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """Yield a copy of `checkpoint` for one part, and copy the changes of the part to `checkpoint` on exit.

    The copy contains only the tensors of the part, under the names that they have in the part.
    """
    prefix, state = f"parts.{name}.", checkpoint["state_dict"]
    part_state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    part_checkpoint = {**checkpoint, "state_dict": part_state}
    yield part_checkpoint
    others = {key: value for key, value in state.items() if not key.startswith(prefix)}
    changed = {f"{prefix}{key}": value for key, value in part_checkpoint["state_dict"].items()}
    checkpoint.update(part_checkpoint | {"state_dict": others | changed})
