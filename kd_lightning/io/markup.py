"""Names of classes, runs and files in Markdown and in tables for spreadsheets, where they are plain text."""

import re
from typing import Any

from kd_lightning.redaction import printable, redacted


def markdown(text: Any) -> str:
    """Return a text on one line with the special characters of Markdown and HTML escaped, and with keys hidden."""
    line = printable(redacted(str(text))).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*|~])", r"\\\1", line).replace("](", "]\\(")
    return re.sub(r"\b(javascript|vbscript|data):(?=\S)", r"\1&#58;", line, flags=re.IGNORECASE)


def cell(value: Any) -> Any:
    """Return a value for a CSV file, with an apostrophe before a text that a spreadsheet would treat as a formula."""
    if not isinstance(value, str):
        return value
    text = printable(redacted(value), keep="\n")
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@") or value[:1] in ("\t", "\r", "\n") else text
