"""The errors of a run that are printed as one line."""

import errno
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
from kd_lightning.errors import ConfigError, RunError, StoppedError, one_line

_LIGHTNING = (
    *(f"lightning.pytorch.{part}" for part in ("callbacks", "loggers", "profilers", "tuner")),
    *(f"lightning.fabric.{part}" for part in ("loggers", "utilities.spike")),
)
_OTHERS = ("kd_lightning.", *(f"lightning.pytorch.{part}." for part in ("trainer", "loops", "strategies", "core")))
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Error numbers: a disk, a quota or a file is full, or a disk is read-only."""


def known_error(error: BaseException) -> BaseException | None:
    """Return the error that is printed as one line for an exception, or None if the exception is a bug."""
    if distributed.peer_is_gone(error):
        return RunError(
            f"rank {rank_zero_only.rank}: another rank has ended; its error is printed above, unless that rank was "
            "killed (for example because memory ran out)"
        )
    if isinstance(error, MisconfigurationException | RunError | StoppedError):
        return error
    return (
        config_error(error)
        or dead_worker(error)
        or explained(error)
        or _of_checkpoint(error)
        or _of_disk(error)
        or _of_lightning(error)
    )


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


def _of_checkpoint(error: BaseException) -> ConfigError | None:
    """Return an error for an exception that was raised while Lightning restored the state of a checkpoint."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    connector = [code.co_name for code in codes if Path(code.co_filename).name == "checkpoint_connector.py"]
    restores = any(name.lstrip("_").startswith(("restore", "resume")) for name in connector)
    if not (restores and isinstance(error, LookupError | TypeError | ValueError | AttributeError | RuntimeError)):
        return None
    reason = f"{type(error).__name__}: {one_line(error, 200)}"
    return ConfigError(
        f"ckpt_path: the state in the checkpoint cannot be restored ({reason}); give another checkpoint, or only load "
        "its student by model.student.checkpoint"
    )


def _of_disk(error: BaseException) -> RunError | None:
    """Return an error for a file or an output that cannot be written."""
    if not (isinstance(error, OSError) and error.errno in _NOT_WRITTEN):
        return None
    name = error.filename or "the output of the command"
    return RunError(f"{name} cannot be written ({error.strerror}); free some space, or write to another disk")
