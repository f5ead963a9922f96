"""The errors of a run that are printed as one line."""

from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from kd_lightning import distributed
from kd_lightning.callbacks.memory import explained
from kd_lightning.config.messages import config_error
from kd_lightning.data.loader import dead_worker
from kd_lightning.errors import RunError, StoppedError


def known_error(error: BaseException) -> BaseException | None:
    """Return the error that is printed as one line for an exception, or None if the exception is a bug."""
    if distributed.peer_is_gone(error):
        return RunError(
            f"rank {rank_zero_only.rank}: another rank has ended; its error is printed above, unless that rank was "
            "killed (for example because memory ran out)"
        )
    if isinstance(error, MisconfigurationException | RunError | StoppedError):
        return error
    return config_error(error) or dead_worker(error) or explained(error)
