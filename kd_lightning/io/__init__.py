"""Files and the terminal: atomic writes, paths, console."""
