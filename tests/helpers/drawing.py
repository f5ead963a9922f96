"""Pages without their figures, for tests that do not look at these: drawing takes nearly all of a page's time."""

import base64
from importlib import import_module

import pytest

EMPTY = f"data:image/svg+xml;base64,{base64.b64encode(b'<svg/>').decode()}"


def draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a page have an empty image in place of each figure; tests/reports/test_page.py draws them all."""
    page = import_module("kd_lightning.reports.page")  # the package has a function of this name
    monkeypatch.setattr(page, "as_uri", lambda *args: EMPTY)
