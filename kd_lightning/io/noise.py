"""Warnings and messages of other libraries that do not apply here."""

import logging
import warnings

NOISE = (
    "does not have many workers",  # images in memory need none
    "dirpath has changed",  # a run that is resumed into a folder of its own
    "exists and is not empty",  # the run's own folder, which holds config.yaml already
    "callbacks used to create the checkpoint",  # what saved it is not needed to test it
    "in eval mode at the start of training",  # the teacher, as it must be
    "Total length of `list` across ranks is zero",  # no validation, as configured
    "LeafSpec",  # Lightning's own use of torch
    "Tip: For seamless",
    "args parameter is intended",  # main(args) from Python, as tests and notebooks do
)


def silence() -> None:
    """Hide these messages for the rest of the process."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message=f".*{message}")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    return not any(message in record.getMessage() for message in NOISE)
