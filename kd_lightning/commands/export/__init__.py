"""export: write a trained student to files that run without the training code of this project."""

from kd_lightning.commands.export.command import Export

__all__ = ["Export"]
