"""Looking into a finished run: its checkpoint again, and pictures of what its networks see. The notebooks use it."""

from kd_lightning.analysis.angles import MappedTeacher, angles, pair_cosines
from kd_lightning.analysis.calibration import Calibration, calibration, reliability_diagrams
from kd_lightning.analysis.disagreement import Opinions, disagreement_grid, disagreements
from kd_lightning.analysis.embedding import embedding_maps, in_two_dimensions
from kd_lightning.analysis.images import some_of_each
from kd_lightning.analysis.intervals import differences
from kd_lightning.analysis.mixtures import mixtures, soft
from kd_lightning.analysis.plan import missing_runs
from kd_lightning.analysis.quiet import suppress_output
from kd_lightning.analysis.similarity import similarity_matrices, sorted_similarities
from kd_lightning.analysis.spaces import plot_embedding_table, row_and_column_cosines
from kd_lightning.analysis.stages import cka_heat_map, stage_cka, stage_maps
from kd_lightning.analysis.training import FeaturePair, look, plot_loss_terms, train_steps
from kd_lightning.analysis.unknown import unknown_histograms, unknown_scores
from kd_lightning.runs.loading import LoadedRun, load_run, newest_run

__all__ = [
    "Calibration",
    "FeaturePair",
    "LoadedRun",
    "MappedTeacher",
    "Opinions",
    "angles",
    "calibration",
    "cka_heat_map",
    "differences",
    "disagreement_grid",
    "disagreements",
    "embedding_maps",
    "in_two_dimensions",
    "load_run",
    "look",
    "missing_runs",
    "mixtures",
    "newest_run",
    "pair_cosines",
    "plot_embedding_table",
    "plot_loss_terms",
    "reliability_diagrams",
    "row_and_column_cosines",
    "similarity_matrices",
    "soft",
    "some_of_each",
    "sorted_similarities",
    "stage_cka",
    "stage_maps",
    "suppress_output",
    "train_steps",
    "unknown_histograms",
    "unknown_scores",
]
