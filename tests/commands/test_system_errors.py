"""The line for an error of the operating system: its advice fits the number of the error."""

import errno
import os
from urllib.error import URLError

import pytest

from kd_lightning.commands.running import exit_on_error
from kd_lightning.commands.system_errors import system_error

PLACE = "check that the place exists and that you may write there"


def of(number: int, path: str | None = None) -> str:
    return str(system_error(OSError(number, os.strerror(number), path)))


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        *((number, PLACE) for number in (errno.ENOENT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ELOOP)),
        *((number, "free some space") for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)),
        *((number, "ulimit -n") for number in (errno.EMFILE, errno.ENFILE)),
        (errno.ENOMEM, "use less memory"),
        (errno.EAGAIN, "ulimit -u"),
        (errno.EIO, "check the disk"),
        *((number, "check the network") for number in (errno.ECONNREFUSED, errno.ETIMEDOUT, errno.ENETUNREACH)),
    ],
)
def test_the_advice_fits_the_number(number: int, advice: str) -> None:
    for path in ("/a/b", None):
        line = of(number, path)
        assert os.strerror(number) in line
        assert advice in line
        assert (PLACE in line) == (advice == PLACE)
        assert line.startswith("/a/b: ") == (path is not None)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("We couldn't connect\nto the hub"), "OSError: We couldn't connect to the hub"),
        (URLError("no host given"), "URLError: <urlopen error no host given>"),
        (OSError(errno.EDOM, "odd"), "odd"),
        (OSError(errno.EDOM, "odd", "/x"), "/x: odd"),
        (OSError(), "OSError: OSError"),
    ],
)
def test_an_error_without_advice(error: OSError, line: str) -> None:
    assert str(system_error(error)) == line


def test_it_is_what_a_command_prints(capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped, exit_on_error():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/data/a.png")
    assert stopped.value.code == 1
    assert capfd.readouterr().err == (
        f"error: /data/a.png: {os.strerror(errno.EMFILE)}; raise the limit of open files (ulimit -n), or set "
        "data.num_workers to a smaller number\n"
    )
