"""Hide warnings and messages of other libraries that do not apply to this package."""

import logging
import warnings

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
    """Hide the messages of `NOISE` until the process ends."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message=f".*{message}")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    return not any(message in record.getMessage() for message in NOISE)
