"""The console on which commands print their tables."""

from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from kd_lightning.redaction import printable, redacted


class PlainConsole(Console):
    """A console that prints names literally: markup, emoji codes and escapes have no effect, and keys are hidden."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(markup=False, emoji=False, **kwargs)

    def render_str(self, text: str, **kwargs: Any) -> Text:
        return super().render_str(printable(redacted(text), keep="\n"), **kwargs)

    def on_broken_pipe(self) -> None:
        """Raise an error, so that the command ends as for every other output. rich would end the process itself.

        Raises:
            BrokenPipeError: always.
        """
        raise BrokenPipeError


def wide(columns: int = 160) -> Console:
    """Return a console. In a file, it has this number of columns. 160 columns are enough for most tables."""
    console = PlainConsole()
    return console if console.is_terminal else PlainConsole(width=columns)


def titled(title: str, table: Table) -> Group:
    """Return a table below its title. Unlike the title of rich, this title may be wider than the table."""
    return Group(PlainConsole().render_str(title, style="italic", highlight=False), table)
