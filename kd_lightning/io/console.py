"""The console on which commands print their tables."""

from rich.console import Console


def wide() -> Console:
    """Return a console for the terminal; if the output goes to a file, it has 160 columns, enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=160)
