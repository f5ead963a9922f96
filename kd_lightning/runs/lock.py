"""Lock: that two processes do not work on the same run."""

import fcntl
import os
import socket
import stat
import time
from pathlib import Path
from weakref import WeakSet

from kd_lightning.errors import ConfigError

_TRIES = 5


class Lock:
    """A file beside a run that is locked for as long as a process works on it.

    The system frees the lock when the last process that holds it has ended, however it ended: a file that a killed
    process has left behind holds nobody up. Forked children (a loader's workers) do not hold it; a child that gets
    `number` by subprocess's `pass_fds` does, and goes on holding it when its parent is killed. Where the file system
    knows no locks, everybody gets it.

    Args:
        path: of the file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number: int | None = None
        """The open file's descriptor, while the lock is held."""

    def take(self) -> bool:
        """Whether this process has the lock now; it does not wait.

        Raises:
            ConfigError: where what stands at its place is no file of a lock (a link, a folder).
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
                time.sleep(0.05)  # somebody may only be looking whether it is held
                continue
            except OSError as error:
                from lightning.pytorch.utilities import rank_zero_warn  # takes seconds

                rank_zero_warn(f"{self.path} cannot be locked ({error}): do not start this run twice at once")
            if self._is(number):
                self.number = number
                _HELD.add(self)
                self.sign(os.getpid())
                return True
            os.close(number)  # whoever held it has taken the file away since it was opened here

    def _opened(self) -> int:
        try:
            number = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        except OSError as error:
            raise ConfigError(f"{self.path} is no lock of ours ({error.strerror}); take it away") from error
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise ConfigError(f"{self.path} is no file, and no lock of ours; take it away")
        return number

    def sign(self, process: int) -> None:
        """Writes down who works on the run, for others to read."""
        os.ftruncate(self.number, 0)
        os.pwrite(self.number, f"process {process} on {socket.gethostname()}\n".encode(), 0)

    def is_held(self) -> bool:
        """Whether a process holds it now."""
        if not self.path.exists():
            return False
        number = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(number)
        return False

    def holder(self) -> str:
        """Who has the lock, in words."""
        try:
            return self.path.read_text().strip() or "another process"
        except OSError:
            return "another process"

    def free(self) -> None:
        """Gives the lock back and takes the file away."""
        if self.number is not None:
            self.path.unlink(missing_ok=True)  # while it is still locked: nobody else's can be at this path
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


def _let_go() -> None:
    """In a forked child: the parent's locks are the parent's."""
    for lock in [*_HELD]:
        os.close(lock.number)
        lock.number = None
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go)
