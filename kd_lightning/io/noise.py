"""Hide warnings and messages of other libraries that do not apply to this package, and make the others printable."""

import logging
import warnings
from collections.abc import Callable
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
    "Tip: For seamless",
    "args parameter is intended",  # main(args) from Python, as tests and notebooks do
)


def silence() -> None:
    """Hide the messages of `NOISE` until the process ends; hide keys and control characters in all other messages."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message=f".*{message}")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_clean)
    if not isinstance(warnings.formatwarning, _Format):
        warnings.formatwarning = _Format(warnings.formatwarning)


def _clean(record: logging.LogRecord) -> bool:
    """Make a record's message printable; return whether it is wanted."""
    record.msg, record.args = _safe(record.getMessage()), ()
    return not any(message in record.msg for message in NOISE)


def _safe(text: str) -> str:
    return printable(redacted(text), keep="\n\t")


class _Format:
    """A function for `warnings.formatwarning`. It calls the previous function and makes its result printable."""

    def __init__(self, before: Callable[..., str]) -> None:
        self.before = before

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        return _safe(self.before(*args, **kwargs))
