"""Scores of known images against those of unknown ones, for teacher and student."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError
from kd_lightning.evaluation import EvaluationResult, NetworkView, OutOfDistribution
from kd_lightning.evaluation.ood import Score
from kd_lightning.reports.style import COLORS, INK, label, tidy


def unknown_scores(
    eyes: NetworkView, unknown: ImageData, *, scores: Sequence[Score] = ("knn", "energy")
) -> dict[str, EvaluationResult]:
    """What the probe `OutOfDistribution` finds of the teacher, where there is one, and of the student.

    Args:
        eyes: the student's.
        unknown: whose test images count as unknown, brought to the size of the run's own.
        scores: as the probe takes them; those of logits are left out where a classifier is not trained.

    Raises:
        ConfigError: for unknown images that are of the run's own classes.
    """
    evaluator = OutOfDistribution(data=[unknown], scores=[*scores])
    eyes.data.setup("fit")
    eyes.data.setup("test")
    evaluator.prepare(eyes.data)
    views = {"teacher": eyes.teacher, "student": eyes}
    return {name: evaluator.evaluate(view) for name, view in views.items() if view}


def unknown_histograms(found: dict[str, EvaluationResult]) -> Figure:
    """A row for each network, a column for each score: known images filled, unknown ones outlined."""
    keys = list(dict.fromkeys(key for each in found.values() for key in each.details["ood"]))
    if not keys:
        raise ConfigError("scores: none that these networks have; knn needs no trained classifier")
    figure = Figure(figsize=(3.7 * len(keys), 0.6 + 1.7 * len(found)), layout="constrained", facecolor="white")
    panels = figure.subplots(len(found), len(keys), squeeze=False)
    for row, (name, each) in zip(panels, found.items(), strict=True):
        for axes, key in zip(row, keys, strict=True):
            tidy(axes, "x")
            axes.set_yticks([])
            if key not in each.details["ood"]:
                axes.set_axis_off()
                continue
            table, (score, _, data) = each.details["ood"][key], key.partition("_")
            known, unknown = (
                [count / max(sum(table[part]), 1) for count in table[part]] for part in ("known", "unknown")
            )
            axes.stairs(known, table["edges"], fill=True, color=COLORS[5], alpha=0.75, label="known")
            axes.stairs(unknown, table["edges"], color=INK, linewidth=1.3, label=label(data, 20))
            axes.set_title(f"{name}, {score}: AUROC {each.values[f'ood_{key}']:.1%}", fontsize=10)
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure
