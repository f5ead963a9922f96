"""bench: how fast `fit` is, beside the bare loop of the same step and beside torchdistill."""

from kd_lightning.commands.bench.alternate import InterleavedTimer
from kd_lightning.commands.bench.command import Bench

__all__ = ["Bench", "InterleavedTimer"]
