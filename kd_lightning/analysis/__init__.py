"""Looking into a finished run: its checkpoint again, and pictures of what its networks see. The notebooks use it."""

from kd_lightning.analysis.angles import Middle, angles, pair_cosines
from kd_lightning.analysis.calibration import Calibration, calibration, reliability_diagrams
from kd_lightning.analysis.embedding import embedding_maps, in_two_dimensions
from kd_lightning.analysis.images import some_of_each
from kd_lightning.analysis.intervals import differences
from kd_lightning.analysis.loading import LoadedRun, load_run, newest_run
from kd_lightning.analysis.mixtures import mixtures, soft
from kd_lightning.analysis.opinions import Opinions, disagreements, opinions
from kd_lightning.analysis.plan import missing_runs
from kd_lightning.analysis.quiet import quietly
from kd_lightning.analysis.similarity import similarity_matrices, sorted_similarities
from kd_lightning.analysis.spaces import row_and_column_cosines, spaces
from kd_lightning.analysis.stages import cka_heat_map, stage_cka, stage_maps
from kd_lightning.analysis.training import Sight, falling, look, train_steps
from kd_lightning.analysis.unknown import unknown_histograms, unknown_scores

__all__ = [
    "Calibration",
    "LoadedRun",
    "Middle",
    "Opinions",
    "Sight",
    "angles",
    "calibration",
    "cka_heat_map",
    "differences",
    "disagreements",
    "embedding_maps",
    "falling",
    "in_two_dimensions",
    "load_run",
    "look",
    "missing_runs",
    "mixtures",
    "newest_run",
    "opinions",
    "pair_cosines",
    "quietly",
    "reliability_diagrams",
    "row_and_column_cosines",
    "similarity_matrices",
    "soft",
    "some_of_each",
    "sorted_similarities",
    "spaces",
    "stage_cka",
    "stage_maps",
    "train_steps",
    "unknown_histograms",
    "unknown_scores",
]
