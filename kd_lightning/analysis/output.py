"""Suppression of the output of a run in a notebook."""

import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

from kd_lightning.errors import RunError


@contextmanager
def suppress_output() -> Iterator[None]:
    """Suppress printed output, warnings, and log messages that are not errors inside the block.

    Raises:
        RunError: if `main` ends with an error. The message is the last line of stderr.
    """
    before = logging.root.manager.disable
    try:
        with ExitStack() as stack, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.disable(max(before, logging.WARNING))
            stderr = _captured(stack)
            try:
                yield
            except SystemExit as error:
                lines = stderr().strip().splitlines() or [f"exit status {error.code}"]
                raise RunError(lines[-1].removeprefix("error: ")) from error
    finally:
        logging.disable(before)


def _captured(stack: ExitStack) -> Callable[[], str]:
    """Capture the printed output while the stack is open, and return a function that returns the text on stderr."""
    if "IPython" in sys.modules:
        from IPython import get_ipython
        from IPython.utils.capture import capture_output

        if get_ipython() is not None:  # in IPython, rich displays its output instead of printing it
            captured = stack.enter_context(capture_output())
            return lambda: captured.stderr
    errors = io.StringIO()
    stack.enter_context(redirect_stdout(io.StringIO()))
    stack.enter_context(redirect_stderr(errors))
    return errors.getvalue
