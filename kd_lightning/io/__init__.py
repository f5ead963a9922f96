"""Files and the terminal: atomic writes, paths, YAML, console."""
