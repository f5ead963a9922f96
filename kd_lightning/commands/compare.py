"""compare: finished runs side by side, as tables and as one page."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from rich.markup import escape

from kd_lightning.errors import ConfigError
from kd_lightning.io.console import wide
from kd_lightning.io.paths import check_writable, expand

if TYPE_CHECKING:  # `--help` needs none of the libraries that these import
    from kd_lightning import reports

WRITTEN = ("report.html", "table.csv", "table.md", "wandb.json")


class Compare:
    """Compares finished runs: `compare RUNS... --out report` writes report.html, table.csv and table.md.

    Runs that differ in their seed alone are a group, called as the runs are, without the seed. Each group is compared
    with the baseline, seed by seed; what makes runs less comparable than they look is said first. Runs of different
    data sets are compared each within its own.

    Args:
        runs: folders of runs, folders above many, or patterns (`runs/**`), or a W&B project (`wandb:entity/project`).
        out: the folder to write to; it must hold nothing but a report, which is written over.
        baseline: the group that the others are compared with; default: one of Supervised, else the first.
        metric: what the comparison is about, by its name in results.json; default: test/acc, else what there is.
        test: of the differences paired by seed: Student's t, or Wilcoxon's signed ranks.
        wandb: save a workspace and a report of these metrics on W&B too, or update those saved from this folder before
            (`pip install 'kd_lightning[wandb]'`).
        figure: path of an SVG, PNG or PDF file to write. It shows the mean and standard deviation of `metric` for each
            group, and the teacher as a line. Default: none.
        images: show the images that students disagree on most; each run's own data module reads them, as `test` would.

    Raises:
        ConfigError: for a folder that holds other files, no runs, or a baseline or metric that is not there.
    """

    def __init__(
        self,
        runs: list[str],
        out: str = "report",
        baseline: str | None = None,
        metric: str | None = None,
        test: Literal["t", "wilcoxon"] = "t",
        figure: str | None = None,
        images: bool = True,
        wandb: bool = False,
    ) -> None:
        if not runs:
            raise ConfigError("runs: none given; name runs' folders, or a folder above them: compare runs/digits")
        self.runs, self.out = runs, expand(out)
        self.baseline, self.metric, self.test, self.images, self.wandb = baseline, metric, test, images, wandb
        self.figure = expand(figure) if figure else None
        check_writable(self.out, "out")
        if self.figure:
            from kd_lightning.reports.summary_plot import check_figure

            check_writable(self.figure, "figure")
            check_figure(self.figure)
        if self.out.is_file():
            raise ConfigError(f"out: {self.out} is a file; give a folder")
        others = (
            sorted(path.name for path in self.out.iterdir() if path.name not in WRITTEN) if self.out.exists() else []
        )
        if others:
            raise ConfigError(f"out: {self.out} holds other files than a report's ({others[0]}); give another folder")

    def __call__(self) -> Path:
        """The page's path."""
        from kd_lightning import reports
        from kd_lightning.reports import online

        with TemporaryDirectory() as temporary:
            folders, addresses = online.split(self.runs)
            said = []
            for address in addresses:
                found, lines = online.fetch(address, Path(temporary))
                folders += map(str, found)
                said += lines
            return self._compared(reports.read_runs(folders), said)

    def _compared(self, runs: "reports.Runs", said: list[str]) -> Path:
        from kd_lightning import reports
        from kd_lightning.reports import summary_plot, tables

        comparisons, lines = reports.compare(runs, baseline=self.baseline, metric=self.metric, test=self.test)
        problems = [*said, *runs.problems, *lines]
        if self.figure:
            summary_plot.write_summary(comparisons, self.figure)
        page = reports.page(comparisons, problems, folder=self.out, images=self.images)
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "report.html").write_text(page, encoding="utf-8")
        (self.out / "table.md").write_text(tables.markdown(comparisons, problems), encoding="utf-8")
        reports.frame(runs, config=True).to_csv(self.out / "table.csv", index=False)
        console = wide()
        if self.wandb:
            try:
                addresses = self._publish(runs, comparisons)
                console.print(escape("on W&B: " + ", ".join(addresses)), soft_wrap=True, highlight=False)
            except ConfigError as error:  # the tables and the page are there all the same
                problems.append(str(error))
        for comparison in comparisons:
            console.print(tables.for_terminal(comparison))
            console.print(escape(tables.column_notes(comparison)), style="dim")
        for line in [*problems, *(line for comparison in comparisons for line in comparison.warnings)]:
            console.print(escape(f"warning: {line}"), soft_wrap=True, highlight=False)
        console.print(
            escape(f"{tables.count_runs(len(runs))}: {self.out / 'report.html'}"), soft_wrap=True, highlight=False
        )
        return self.out / "report.html"

    def _publish(self, runs: "reports.Runs", comparisons: "list[reports.Comparison]") -> list[str]:
        from kd_lightning.reports import workspace

        projects = list(dict.fromkeys(run.results.run.get("project") for run in runs))
        if len(projects) != 1 or not projects[0]:
            raise ConfigError(f"wandb: these are runs of {len(projects)} W&B projects; a workspace is of one")
        metrics = [metric.name for comparison in comparisons for metric in comparison.metrics]
        return workspace.publish(None, projects[0], dict.fromkeys(metrics), self.out.name, self.out)
