"""export: write a finished student to files that run without this project's training code."""

from kd_lightning.commands.export.command import Export

__all__ = ["Export"]
