"""The hooks of a combination's parts: they run after the combination's own."""

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
"""Lightning's hooks that run for each part as they are; `Combined` itself calls the two of the checkpoint."""


def forward_hooks(kind: type[Distiller]) -> type[Distiller]:
    """Have a class with `parts` run their hooks after its own; a class decorator."""
    for hook in HOOKS - {*vars(kind)}:
        setattr(kind, hook, _with_parts(hook))
    return kind


def _with_parts(hook: str) -> Callable[..., Any]:
    own = getattr(Distiller, hook)

    @wraps(own)
    def run(self: Distiller, *args: Any, **kwargs: Any) -> Any:
        results = [own(self, *args, **kwargs)]
        for part in self.parts_with.get(hook, ()):
            part._current_fx_name = self._current_fx_name  # so that the part can log
            results.append(getattr(part, hook)(*args, **kwargs))
        return next((result for result in results if result is not None), None)

    return run


@contextmanager
def own_checkpoint(checkpoint: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """Give a checkpoint as a part alone would see it, with its own tensors by its own names, and keep its changes."""
    prefix, state = f"parts.{name}.", checkpoint["state_dict"]
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    seen = {**checkpoint, "state_dict": own}
    yield seen
    others = {key: value for key, value in state.items() if not key.startswith(prefix)}
    changed = {f"{prefix}{key}": value for key, value in seen["state_dict"].items()}
    checkpoint.update(seen | {"state_dict": others | changed})
