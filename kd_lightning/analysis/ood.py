"""Scores of known and unknown images, for teacher and student."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError
from kd_lightning.evaluation import EvaluationResult, NetworkView, OutOfDistribution
from kd_lightning.evaluation.ood import Score
from kd_lightning.reports.style import COLORS, INK, label, tidy


def ood_scores(
    view: NetworkView, unknown: ImageData, *, scores: Sequence[Score] = ("knn", "energy")
) -> dict[str, EvaluationResult]:
    """Return the results of the evaluator `OutOfDistribution` for the student, and for the teacher if there is one.

    Args:
        view: view of the student.
        unknown: data set with the unknown images. Its test images are used, resized to the size of the run's images.
        scores: scores, as in the evaluator. If a classifier is not trained, scores of its logits are skipped.

    Raises:
        ConfigError: if the unknown images have a class of the run's data.
    """
    evaluator = OutOfDistribution(data=[unknown], scores=[*scores])
    view.data.setup("fit")
    view.data.setup("test")
    evaluator.prepare(view.data)
    views = {"teacher": view.teacher, "student": view}
    return {name: evaluator.evaluate(view) for name, view in views.items() if view}


def ood_histograms(results: dict[str, EvaluationResult]) -> Figure:
    """Plot histograms of the scores: one row per network, one column per score; known images are filled areas."""
    keys = list(dict.fromkeys(key for result in results.values() for key in result.details["ood"]))
    if not keys:
        raise ConfigError(
            "scores: none of the given scores can be computed for these networks; add knn, because knn needs no "
            "trained classifier"
        )
    figure = Figure(figsize=(3.7 * len(keys), 0.6 + 1.7 * len(results)), layout="constrained", facecolor="white")
    panels = figure.subplots(len(results), len(keys), squeeze=False)
    for row, (name, result) in zip(panels, results.items(), strict=True):
        for axes, key in zip(row, keys, strict=True):
            tidy(axes, "x")
            axes.set_yticks([])
            if key not in result.details["ood"]:
                axes.set_axis_off()
                continue
            table, (score, _, data) = result.details["ood"][key], key.partition("_")
            known, unknown = (
                [count / max(sum(table[part]), 1) for count in table[part]] for part in ("known", "unknown")
            )
            axes.stairs(known, table["edges"], fill=True, color=COLORS[5], alpha=0.75, label="known")
            axes.stairs(unknown, table["edges"], color=INK, linewidth=1.3, label=label(data, 20))
            axes.set_title(f"{name}, {score}: AUROC {result.values[f'ood_{key}']:.1%}", fontsize=10)
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure
