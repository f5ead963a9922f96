"""The console on which commands print their tables."""

from rich.console import Console


def wide() -> Console:
    """Return a console. If the output goes to a file, the console has 160 columns, which is enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=160)
