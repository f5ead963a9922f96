"""DeduplicatedLogging: each value of a run is logged once, by whichever of its sessions."""

from collections.abc import Mapping
from typing import Any


class DeduplicatedLogging:
    """Beside a Lightning logger: leaves out what was logged just before, and what a run had logged before it went on.

    Args:
        first_step: the first step that is logged: those before are there already.
        **kwargs: the logger's own.
    """

    def __init__(self, *, first_step: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first_step = first_step
        self._said: tuple[int | None, str] | None = None

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        said = (step, repr(sorted(metrics.items())))
        if said != self._said and (step is None or step >= self.first_step):
            self._said = said
            super().log_metrics(metrics, step)
