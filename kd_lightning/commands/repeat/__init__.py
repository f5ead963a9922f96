"""repeat: every config with every seed, at equal budget, each run in a process of its own."""

from kd_lightning.commands.repeat.command import Repeat

__all__ = ["Repeat"]
