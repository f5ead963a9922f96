"""Property tests with few random inputs in the default run and 2,000 in the slow run; names that files may have."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HOSTILE = (
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "<script>alert(1)</script>", "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b31m", "\u202egnp.exe", "\u2028", "a\nb", "[link](javascript:alert(1))", "![](x)", "`code`", "a|b",
    "[bold]b[/bold]",
    "# head", "- item", "---", "{{ 7 * 7 }}", "{% raw %}", "&amp;", '"><img src=x onerror=alert(1)>', "\ufeff",
    "\udcff",
    "..", "../x", "/etc/passwd", "~root", "$HOME", "%s", "\0",
)  # fmt: skip
"""Texts that a terminal, a browser, Markdown, a spreadsheet or a file system treats in a special way."""
NAMES = st.one_of(
    st.sampled_from(HOSTILE), st.text(max_size=30), st.tuples(*[st.sampled_from(HOSTILE)] * 2).map("".join)
)


def fuzz(default: int = 30, **strategies: st.SearchStrategy) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a function, so that it is a test with `default` random inputs, and with 2,000 in the slow run."""

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        @pytest.mark.parametrize("examples", [default, pytest.param(2000, marks=pytest.mark.slow)])
        def test(examples: int) -> None:
            chosen: dict[str, Any] = {"deadline": None, "derandomize": True, "database": None}
            health = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
            settings(max_examples=examples, suppress_health_check=health, **chosen)(given(**strategies)(check))()

        test.__doc__ = check.__doc__
        return test

    return decorate
