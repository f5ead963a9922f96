"""Hide warnings and messages of other libraries that do not apply to this package, and show the others once."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kd_lightning.redaction import printable, redacted

NOISE = (
    "does not have many workers",  # images in memory need no workers
    "dirpath has changed",  # a run that starts from the checkpoint of another run has its own folder
    "exists and is not empty",  # the run's folder may already contain config.yaml
    "callbacks used to create the checkpoint",  # a test does not need the callbacks that saved the checkpoint
    "in eval mode at the start of training",  # the teacher is always in eval mode
    "Total length of `list` across ranks is zero",  # the run is configured without validation
    "LeafSpec",  # Lightning calls a deprecated function of torch
    "smaller than the logging interval",  # LogInterval shortens the interval
    "Restoring states from the checkpoint",  # before a second line with the same path
    "Loaded model weights from the checkpoint",  # the commands name the checkpoint themselves
    "TPU available: False",
    "Tip: For seamless",
    "args parameter is intended",  # main(args) from Python, as tests and notebooks do
)

_PACKAGE = Path(__file__).parents[1]
_shown: set[str] | None = None
"""The messages and warnings of this command; None outside a command, where a message may be shown again."""


def silence() -> None:
    """Hide the messages of `NOISE` until the process ends, and show each other message once until `end_command`.

    Keys and control characters in messages are hidden, too.
    """
    global _shown
    _shown = set()
    for message in NOISE:
        warnings.filterwarnings("ignore", message=f".*{message}")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_clean)
    if not isinstance(warnings.formatwarning, _Format):
        warnings.formatwarning = _Format(warnings.formatwarning)


def end_command() -> None:
    """Show later messages even if they were shown before: the same process may run a further command."""
    global _shown
    _shown = None


def _is_new(text: str) -> bool:
    """Return whether the text was not shown before. Python itself forgets its warnings whenever a filter changes."""
    if _shown is None:
        return True
    new = text not in _shown
    _shown.add(text)
    return new


def _clean(record: logging.LogRecord) -> bool:
    """Make a record's message printable; return whether it is shown."""
    record.msg, record.args = _safe(record.getMessage()), ()
    return not any(message in record.msg for message in NOISE) and _is_new(record.msg)


def _safe(text: str) -> str:
    return printable(redacted(text), keep="\n\t")


class _Format:
    """A function for `warnings.formatwarning`. It shows each warning once.

    Warnings of this package are shown without the place in the source code. All others are formatted by the previous
    function.
    """

    def __init__(self, before: Callable[..., str]) -> None:
        self.before = before

    def __call__(self, message: Any, category: type[Warning], filename: str, *args: Any, **kwargs: Any) -> str:
        if Path(filename).is_relative_to(_PACKAGE) and issubclass(category, UserWarning):
            text = _safe(f"warning: {message}\n")
        else:
            text = _safe(self.before(message, category, filename, *args, **kwargs))
        return text if _is_new(text) else ""
