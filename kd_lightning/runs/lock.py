"""Lock: prevent two processes from working on the same run."""

import fcntl
import os
import socket
import stat
import time
from pathlib import Path
from weakref import WeakSet

from kd_lightning.errors import ConfigError
from kd_lightning.io.paths import open_regular, read_text

_TRIES = 5


class Lock:
    """A file that is locked while a process works on a run.

    The operating system releases the lock when all processes that hold the lock have ended or were killed. The file may
    remain, but it then blocks no other process. Forked children, such as the workers of a loader, do not hold the lock.
    A program that is started by `subprocess` with `pass_fds=[lock.number]` holds the lock too. It still holds the lock
    after its parent has ended. On a file system without locks, every process gets the lock.

    Args:
        path: path of the file. `take` creates the folder of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number: int | None = None
        """Descriptor of the open file while this object holds the lock, and None otherwise."""

    def take(self) -> bool:
        """Try to take the lock, and return whether this process now holds the lock.

        If another process holds the lock, the function tries again for about 0.2 seconds.

        Raises:
            ConfigError: if the file cannot be opened, or if it is not a regular file (for example, if it is a
                link or a folder).
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        tries = 0
        while True:
            number = self._opened()
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(number)
                tries += 1
                if tries == _TRIES:
                    return False
                time.sleep(0.05)  # another process may hold the lock for a moment, in `is_held`
                continue
            except OSError as error:
                from lightning.pytorch.utilities import rank_zero_warn  # this import takes seconds

                rank_zero_warn(
                    f"{self.path} cannot be locked ({error}), so nothing prevents a second process from working on "
                    "this run; do not start a second process for this run"
                )
            if self._is(number):
                self.number = number
                _HELD.add(self)
                self.sign(os.getpid())
                return True
            os.close(number)  # the previous holder removed the file after this process opened it: try again

    def _opened(self) -> int:
        try:
            number = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        except OSError as error:
            folder, exists = self.path.parent, os.path.lexists(self.path)
            remedy = "remove it" if exists and os.access(folder, os.W_OK) else f"make sure that {folder} is writable"
            raise ConfigError(f"{self.path} cannot be opened as a lock file ({error.strerror}); {remedy}") from error
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise ConfigError(f"{self.path} cannot be the lock file, because it is not a regular file; remove it")
        return number

    def sign(self, process: int) -> None:
        """Write to the file which process works on the run, and on which host. `holder` returns this text."""
        os.ftruncate(self.number, 0)
        os.pwrite(self.number, f"process {process} on {socket.gethostname()}\n".encode(), 0)

    def is_held(self) -> bool:
        """Return whether a process holds the lock."""
        try:
            file = open_regular(self.path)
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            file.close()
        return False

    def holder(self) -> str:
        """Return a text with the id and the host of the process that holds the lock."""
        try:
            return read_text(self.path).strip() or "another process"
        except (OSError, ValueError):
            return "another process"

    def free(self) -> None:
        """Release the lock and remove the file."""
        if self.number is not None:
            # remove the file before the lock is released: after the release, the file may belong to another process
            self.path.unlink(missing_ok=True)
            os.close(self.number)
            self.number = None
            _HELD.discard(self)

    def _is(self, number: int) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(number))
        except FileNotFoundError:
            return False


_HELD: WeakSet[Lock] = WeakSet()
"""The locks that this process holds."""


def _release_in_child() -> None:
    """Close the parent's locks in a forked child, so that only the parent holds them."""
    for lock in [*_HELD]:
        os.close(lock.number)
        lock.number = None
    _HELD.clear()


os.register_at_fork(after_in_child=_release_in_child)
