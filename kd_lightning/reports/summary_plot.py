"""One figure for a README or a paper: mean and standard deviation of the main metric for each group."""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from kd_lightning.errors import ConfigError
from kd_lightning.io.atomic import atomic_write
from kd_lightning.reports import effects
from kd_lightning.reports.axes import describe
from kd_lightning.reports.comparison import Comparison
from kd_lightning.reports.frame import teachers
from kd_lightning.reports.style import INK, TEACHER_COLOR, label, panel
from kd_lightning.reports.varied import MOST_SETTINGS

FORMATS = ("svg", "png", "pdf")
BASELINE_COLOR, COLOR = "#8c8c8c", "#0072B2"


def summary(comparison: Comparison, width: float = 6.2) -> Figure:
    """Plot the main metric of each group: a point at the mean, a bar of one standard deviation, and the values as text.

    The point of the baseline is hollow, and a dotted line shows its mean across the plot. A dashed line is the teacher.
    The figure can also be read in grey, because no information is shown by colour alone.

    Args:
        comparison: the runs of one data set.
        width: width of the figure in inches.
    """
    metric, frame = describe(comparison.metric), comparison.frame
    groups = frame.dropna(subset=[metric.name]).groupby("group", sort=False)[metric.name]
    figure, axes = panel(0.75 + 0.34 * groups.ngroups, width)
    names, white = [], {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    for row, (group, shares) in enumerate(groups):
        values = shares * metric.scale
        mean, deviation = values.mean(), values.std() if len(values) > 1 else 0.0
        is_baseline = group == comparison.baseline
        color = BASELINE_COLOR if is_baseline else COLOR
        fill = "white" if is_baseline else color
        axes.errorbar(
            mean, row, xerr=deviation, fmt="o", color=color, mfc=fill, ms=7, mew=1.6, capsize=4, elinewidth=1.6
        )
        text = metric.show(shares.mean(), bare=True)
        text += f" ± {metric.show(shares.std(), bare=True)}" if len(values) > 1 else ""
        axes.annotate(
            text, (mean, row), (0, 8), textcoords="offset points", ha="center", fontsize=8, color=INK, bbox=white
        )
        if is_baseline:
            axes.axvline(mean, color=BASELINE_COLOR, linestyle=":", linewidth=1.2, zorder=0)
        names.append(label(str(group), 30))
    for value in teachers(frame, metric.name).values():
        axes.axvline(value * metric.scale, color=TEACHER_COLOR, linestyle=(0, (4, 2)), linewidth=1.2)
        axes.annotate(
            f"teacher {metric.show(value, bare=True)}",
            (value * metric.scale, 1),
            (0, 2),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=TEACHER_COLOR,
        )
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.5, -0.75)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.1)
    axes.set_xlabel(label(metric.heading, 60), fontsize=9)
    return figure


def check_figure(path: Path, field: str = "figure") -> None:
    """Raise an error if a path cannot be that of a figure.

    Raises:
        ConfigError: if the ending is not one of FORMATS, or if the path is a folder. The message begins with `field`.
    """
    if path.is_dir():
        raise ConfigError(f"{field}: {path} is a folder; give the path of a file")
    if path.suffix.lstrip(".").lower() not in FORMATS:
        raise ConfigError(f"{field}: {path} does not end in {', '.join(f'.{name}' for name in FORMATS)}")


def write_summary(comparisons: list[Comparison], path: Path) -> None:
    """Write the figure of `summary` as SVG, PNG or PDF.

    Raises:
        ConfigError: if there are several comparisons, because the runs belong to several data sets.
    """
    _write(summary(_only(comparisons, "figure")), path)


def write_effects(comparisons: list[Comparison], path: Path) -> None:
    """Write the figure of `effects.effects` as SVG, PNG or PDF.

    Raises:
        ConfigError: if there are several comparisons, or if no setting or too many settings differ between runs of the
            same method.
    """
    comparison = _only(comparisons, "effects")
    if not comparison.varied:
        raise ConfigError(
            f"effects: the runs of a method differ in no setting, or in more than {MOST_SETTINGS}; give the "
            "runs of `repeat --sweep`, or omit effects"
        )
    _write(effects.effects(comparison), path)


def _only(comparisons: list[Comparison], field: str) -> Comparison:
    if len(comparisons) != 1:
        names = ", ".join(comparison.data for comparison in comparisons)
        raise ConfigError(
            f"{field}: a figure shows one data set, but the runs are of {names}; give only the runs of one of them"
        )
    return comparisons[0]


def _write(figure: Figure, path: Path) -> None:
    suffix = path.suffix.lstrip(".").lower()
    options = {"dpi": 200} if suffix == "png" else {"metadata": {"Date" if suffix == "svg" else "CreationDate": None}}
    with rc_context({"svg.hashsalt": "kd_lightning"}), atomic_write(path) as temporary:
        figure.savefig(temporary, format=suffix, **options)
