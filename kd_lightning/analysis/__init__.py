"""Analysis of a finished run, used by the notebooks: load its checkpoint, and plot what its networks compute."""

from kd_lightning.analysis.angles import MappedTeacher, pair_cosines, plot_angles
from kd_lightning.analysis.calibration import Calibration, calibration, reliability_diagrams
from kd_lightning.analysis.disagreement import ProbabilityPair, disagreement_grid, disagreements
from kd_lightning.analysis.embedding import embedding_maps, project_2d
from kd_lightning.analysis.embedding_table import plot_embedding_table, row_and_column_cosines
from kd_lightning.analysis.images import images_per_class
from kd_lightning.analysis.intervals import plot_differences
from kd_lightning.analysis.missing_runs import missing_runs
from kd_lightning.analysis.mixtures import plot_mixtures, soft_targets
from kd_lightning.analysis.ood import ood_histograms, ood_scores
from kd_lightning.analysis.output import suppress_output
from kd_lightning.analysis.similarity import similarity_matrices, sorted_similarities
from kd_lightning.analysis.stages import cka_heat_map, stage_cka, stage_maps
from kd_lightning.analysis.training import FeaturePair, compute_features, plot_loss_terms, train_steps
from kd_lightning.runs.loading import LoadedRun, load_run, newest_run

__all__ = [
    "Calibration",
    "FeaturePair",
    "LoadedRun",
    "MappedTeacher",
    "ProbabilityPair",
    "calibration",
    "cka_heat_map",
    "compute_features",
    "disagreement_grid",
    "disagreements",
    "embedding_maps",
    "images_per_class",
    "load_run",
    "missing_runs",
    "newest_run",
    "ood_histograms",
    "ood_scores",
    "pair_cosines",
    "plot_angles",
    "plot_differences",
    "plot_embedding_table",
    "plot_loss_terms",
    "plot_mixtures",
    "project_2d",
    "reliability_diagrams",
    "row_and_column_cosines",
    "similarity_matrices",
    "soft_targets",
    "sorted_similarities",
    "stage_cka",
    "stage_maps",
    "suppress_output",
    "train_steps",
]
