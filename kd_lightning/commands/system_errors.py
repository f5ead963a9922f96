"""The line for an error of the operating system: what failed, and the advice that fits its number."""

import errno
import os
import signal

from kd_lightning.errors import RunError, StoppedError, one_line

_ADVICE = {
    "check that the place exists and that you may write there": (
        *("ENOENT", "ENOTDIR", "EACCES", "EPERM", "EROFS", "EISDIR", "EEXIST", "ENOTEMPTY", "ELOOP", "ENAMETOOLONG"),
        *("EXDEV", "ETXTBSY", "EBUSY"),
    ),
    "free some space, or write to another disk": ("ENOSPC", "EDQUOT", "EFBIG"),
    "raise the limit of open files (ulimit -n), or set data.num_workers to a smaller number": ("EMFILE", "ENFILE"),
    "use less memory, for example with a smaller data.batch_size or data.num_workers": ("ENOMEM",),
    "start fewer processes (data.num_workers), or raise their limit (ulimit -u)": ("EAGAIN",),
    "check the disk: it reported a fault": ("EIO", "ESTALE", "ENXIO", "ENODEV"),
    "check the network, and the address that was used": (
        *("ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "EHOSTUNREACH", "ENETUNREACH", "ENETDOWN", "ETIMEDOUT"),
        *("EADDRINUSE", "EADDRNOTAVAIL", "ENOTCONN"),
    ),
}
"""For each advice, the names of the errors to which it applies."""


def system_error(error: OSError) -> BaseException:
    """Return an error of one line for an error of the operating system.

    The advice depends on the number of the error. An error without a number, or with another number, has no advice:
    libraries also raise OSError for other reasons, such as a file of an unknown format or an unreachable server.
    """
    if isinstance(error, BrokenPipeError):
        return StoppedError(128 + signal.SIGPIPE, "the reader of the output has ended")
    reason = error.strerror if isinstance(error.strerror, str) else one_line(error)
    name = errno.errorcode.get(error.errno, "") if isinstance(error.errno, int) and error.errno > 0 else ""
    advice = next((text for text, names in _ADVICE.items() if name in names), "")
    if isinstance(error.filename, str | bytes | os.PathLike):
        what = f"{os.fsdecode(error.filename)}: {reason}"
    elif name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO"):
        what = f"a file or the output cannot be written ({reason})"
    else:
        what = reason if name else f"{type(error).__name__}: {reason}"
    return RunError(f"{what}; {advice}" if advice else what)
