"""Error messages of other libraries, read from the libraries so that no test repeats their wording."""

from collections.abc import Callable
from typing import Any

import pytest


def message_of(call: Callable[[], Any]) -> str:
    """Return the message of the exception that `call` raises, on one line as the command line prints it."""
    with pytest.raises(Exception, match=r".") as raised:
        call()
    return " ".join(str(raised.value).split())
