"""Where commands print their tables."""

from rich.console import Console


def wide() -> Console:
    """The terminal, or, where the output goes to a file, 160 columns: as wide as the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=160)
