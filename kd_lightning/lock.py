"""Lock: that two processes do not work on the same run."""

import fcntl
import os
import socket
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn


class Lock:
    """A file beside a run that is locked for as long as a process works on it.

    The system frees the lock when the last process that holds it has ended, however it ended: a file that a killed
    process has left behind holds nobody up. A child that gets `number` by subprocess's `pass_fds` holds it too, and
    goes on holding it when its parent is killed.

    Args:
        path: of the file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number: int | None = None
        """The open file's descriptor, while the lock is held."""

    def take(self) -> bool:
        """Whether this process has the lock now; it does not wait."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            number = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(number)
                return False
            except OSError as error:
                rank_zero_warn(f"{self.path} cannot be locked ({error}): do not start this run twice at once")
            if self._is(number):
                self.number = number
                self.sign(os.getpid())
                return True
            os.close(number)  # whoever held it has taken the file away since it was opened here

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

    def _is(self, number: int) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(number))
        except FileNotFoundError:
            return False
