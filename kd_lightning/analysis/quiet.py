"""Without the words of a run, of which a notebook shows the result."""

import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

from kd_lightning.errors import RunError


@contextmanager
def suppress_output() -> Iterator[None]:
    """Keeps back what is printed, logged as information or warned of inside; errors are raised as ever.

    Raises:
        RunError: with the line that was said last, where `main` has ended the program.
    """
    before = logging.root.manager.disable
    try:
        with ExitStack() as stack, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.disable(max(before, logging.WARNING))
            said = _captured(stack)
            try:
                yield
            except SystemExit as error:
                lines = said().strip().splitlines() or [f"exit status {error.code}"]
                raise RunError(lines[-1].removeprefix("error: ")) from error
    finally:
        logging.disable(before)


def _captured(stack: ExitStack) -> Callable[[], str]:
    """Takes away what is printed while the stack is open; a function that gives what stderr got."""
    if "IPython" in sys.modules:
        from IPython import get_ipython
        from IPython.utils.capture import capture_output

        if get_ipython() is not None:  # rich draws by its displays, which are not printed
            captured = stack.enter_context(capture_output())
            return lambda: captured.stderr
    errors = io.StringIO()
    stack.enter_context(redirect_stdout(io.StringIO()))
    stack.enter_context(redirect_stderr(errors))
    return errors.getvalue
