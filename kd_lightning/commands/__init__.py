"""The commands beside fit, validate, test and predict. Each is a class: its arguments are the command's own."""

from kd_lightning.commands.bench import Bench
from kd_lightning.commands.bench_data import BenchData
from kd_lightning.commands.bench_methods import BenchMethods
from kd_lightning.commands.build_neighbors import MakeNeighbors
from kd_lightning.commands.compare import Compare
from kd_lightning.commands.export import Export
from kd_lightning.commands.repeat import Repeat
from kd_lightning.commands.show_batch import Show

ON_A_CONFIG = {"show-batch": Show, "build-neighbors": MakeNeighbors}
"""Called with the method and the data of a config, as `fit` takes it."""
ALONE = {"bench-data": BenchData, "bench-methods": BenchMethods, "compare": Compare, "export": Export}
"""Called with their own arguments alone."""
AROUND_FIT = {"bench": Bench, "repeat": Repeat}
"""Called with their own arguments and, in one list, those of `fit`."""

__all__ = [
    "ALONE",
    "AROUND_FIT",
    "ON_A_CONFIG",
    "Bench",
    "BenchData",
    "BenchMethods",
    "Compare",
    "Export",
    "MakeNeighbors",
    "Repeat",
    "Show",
]
