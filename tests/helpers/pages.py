"""The fenced blocks of README and of the pages."""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Block(NamedTuple):
    """A fenced block of shell commands."""

    page: str
    line: int
    marker: str
    text: str

    @property
    def commands(self) -> list[str]:
        joined = re.sub(r"\\\n\s*", " ", self.text)
        return [line for line in joined.splitlines() if shlex.split(line, comments=True)]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(pages: Iterable[Path]) -> Iterator[Block]:
    """Yield the blocks of shell commands of pages; the marker is the comment in the line before."""
    for page in pages:
        text = page.read_text()
        for found in re.finditer(
            r"^(?:<!-- ([^\n]+) -->\n)?```(?:bash|sh|shell|console)\n(.*?)^```$", text, re.M | re.S
        ):
            line = text.count("\n", 0, found.start()) + 1
            yield Block(str(page.relative_to(ROOT)), line, found[1] or "", found[2])
