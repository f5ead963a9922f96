"""DeduplicatedLogging: log each value of a run only once, even if the run was resumed."""

from collections.abc import Mapping
from typing import Any


class DeduplicatedLogging:
    """Mixin for a Lightning logger that skips repeated values, and values of steps that were already logged.

    Args:
        first_step: first step that is logged. The run logged the steps before it before it was resumed.
        **kwargs: arguments of the logger.
    """

    def __init__(self, *, first_step: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first_step = first_step
        self._last_logged: tuple[int | None, str] | None = None

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        entry = (step, repr(sorted(metrics.items())))
        if entry != self._last_logged and (step is None or step >= self.first_step):
            self._last_logged = entry
            super().log_metrics(metrics, step)
