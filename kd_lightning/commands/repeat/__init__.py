"""repeat: run every config with every seed, each run in its own process."""

from kd_lightning.commands.repeat.command import Repeat

__all__ = ["Repeat"]
