"""Files with a user's own classes: where an exception was raised in them. This module imports no large library."""

import sysconfig
import traceback
from pathlib import Path
from types import FrameType

from kd_lightning.errors import one_line

_PACKAGE = Path(__file__).parents[1]
_OPEN = ("methods", "evaluation", "data")
"""Folders of this package in which users write classes of their own."""
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def is_own(file: str | None) -> bool:
    """Return whether a source file belongs neither to Python, nor to an installed package, nor to this package."""
    if not file or file.startswith("<") or not file.endswith(".py"):
        return False
    path = Path(file)
    installed = str(path).startswith(_LIBRARIES) or {"site-packages", "dist-packages"} & {*path.parts}
    return not installed and not path.is_relative_to(_PACKAGE)


def own_frame(error: BaseException, *, methods: bool = False) -> tuple[FrameType, int] | None:
    """Return the innermost frame of a traceback that is in a file of the user, and its line.

    Args:
        error: Exception with a traceback.
        methods: Whether the files of this package that users extend (`kd_lightning/methods/`) count as well.
    """
    folders = [_PACKAGE / name for name in _OPEN] if methods else []
    for frame, line in reversed([*traceback.walk_tb(error.__traceback__)]):
        file = frame.f_code.co_filename
        if is_own(file) or any(Path(file).parent == folder for folder in folders):
            return frame, line
    return None


def exit_place(error: SystemExit) -> str:
    """Return the file and the line of a `sys.exit` in a file of the user, as `dkd.py, line 7`; '' for any other one.

    The innermost frame need not be the user's, because W&B replaces `sys.exit` by a function of its own.
    """
    found = own_frame(error)
    return f"{Path(found[0].f_code.co_filename).name}, line {found[1]}" if found else ""


def reason(error: BaseException, *, methods: bool = False) -> str:
    """Return file, line and exception, as in `dkd.py, line 7: NameError: name 'x' is not defined`.

    Return '' if no file of the user is involved. A syntax error is at its own place.
    """
    if isinstance(error, SyntaxError) and is_own(error.filename):
        return f"{Path(error.filename).name}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    found = own_frame(error, methods=methods)
    if not found:
        return ""
    frame, line = found
    return f"{Path(frame.f_code.co_filename).name}, line {line}: {type(error).__name__}: {one_line(error, 300)}"
