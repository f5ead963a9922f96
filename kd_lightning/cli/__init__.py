"""The command line."""

from kd_lightning.cli.main import console, main

__all__ = ["console", "main"]
