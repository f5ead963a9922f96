"""The errors of a run that are printed as one line."""

import sysconfig
import traceback
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from kd_lightning import distributed
from kd_lightning.callbacks.memory import explained
from kd_lightning.config.lightning_classes import missing_package, needs_package
from kd_lightning.config.messages import config_error
from kd_lightning.data.loader import dead_worker
from kd_lightning.errors import RunError, StoppedError, one_line

_LIGHTNING = (
    *(f"lightning.pytorch.{part}" for part in ("callbacks", "loggers", "profilers", "tuner")),
    *(f"lightning.fabric.{part}" for part in ("loggers", "utilities.spike")),
)
_OTHERS = ("kd_lightning.", *(f"lightning.pytorch.{part}." for part in ("trainer", "loops", "strategies", "core")))
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


def known_error(error: BaseException) -> BaseException | None:
    """Return the error that is printed as one line for an exception, or None if the exception is a bug."""
    if distributed.peer_is_gone(error):
        return RunError(
            f"rank {rank_zero_only.rank}: another rank has ended; its error is printed above, unless that rank was "
            "killed (for example because memory ran out)"
        )
    if isinstance(error, MisconfigurationException | RunError | StoppedError):
        return error
    return config_error(error) or dead_worker(error) or explained(error) or _of_lightning(error)


def _of_lightning(error: BaseException) -> RunError | None:
    """Return an exception of one of Lightning's callbacks, loggers or profilers as an error of one line.

    Return None if the innermost function of the traceback, apart from functions of other libraries, is not in one of
    these classes.
    """
    if not isinstance(error, Exception):
        return None
    for frame, _ in reversed([*traceback.walk_tb(error.__traceback__)]):
        module = frame.f_globals.get("__name__", "")
        if module.startswith(_LIGHTNING):
            package = missing_package(str(error)) if isinstance(error, ImportError) else None
            name = type(frame.f_locals["self"]).__name__ if "self" in frame.f_locals else module.rpartition(".")[2]
            return RunError(needs_package(name, package) if package else f"{name}: {one_line(error)}")
        in_library = str(Path(frame.f_code.co_filename)).startswith(_LIBRARIES)
        if module.startswith(_OTHERS) or not in_library:
            return None
    return None
