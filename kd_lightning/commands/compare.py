"""compare: write tables and an HTML page that compare finished runs."""

import contextlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from kd_lightning.commands.report_folder import WRITTEN, folder_for, foreign
from kd_lightning.errors import ConfigError
from kd_lightning.io.atomic import atomic_write
from kd_lightning.io.console import wide
from kd_lightning.io.markup import cell
from kd_lightning.io.paths import check_writable, expand
from kd_lightning.words import counted

if TYPE_CHECKING:  # this module imports many libraries, which `--help` does not need
    from kd_lightning import reports


class Compare:
    """Compares finished runs: `compare RUNS... --out report` writes report.html, table.csv and table.md.

    Runs that differ only in their seed form a group. The name of a group is the name of its runs without the seed. Each
    run is compared with the run of the baseline that has the same seed. Warnings name differences that make runs less
    comparable. Runs of different data sets are compared separately.

    Args:
        runs: folders of runs, folders that contain runs at any depth, patterns (`runs/**`), or W&B projects
            (`wandb:entity/project`).
        out: output folder. It may contain only an earlier report. The earlier report is replaced if all of its runs are
            compared again. Otherwise, the new report is written to a folder with a number, such as `report-2`.
        baseline: name of the group with which the other groups are compared. Default: the group of Supervised;
            if there are several, the group whose student network most groups of other methods have, then the group that
            was evaluated first; without Supervised, the first group.
        metric: name of the main metric, as in results.json. Default: test/acc if it exists, otherwise the accuracy of a
            linear classifier or of kNN, otherwise a validation metric.
        test: statistical test of the differences: `t` is Student's paired t-test, `wilcoxon` is Wilcoxon's signed-rank
            test.
        wandb: whether a workspace and a report are also saved on W&B. If they were saved from this output folder
            before, they are updated. This needs `pip install 'kd_lightning[wandb]'`.
        figure: path of an SVG, PNG or PDF file to write. It shows the mean and standard deviation of `metric` for each
            group, and the teacher as a line. Default: none.
        effects: path of an SVG, PNG or PDF file to write. It shows `metric` by each setting that differs between runs
            of the same method, for example the runs of `repeat --sweep`. Default: none.
        images: whether the page shows the images on which the students disagree most. The images are loaded from the
            data set of the runs, as in `test`.

    Raises:
        ConfigError: if the output folder contains other files, if there are no runs, or for an unknown baseline or
            metric.
    """

    def __init__(
        self,
        runs: list[str],
        out: str = "report",
        baseline: str | None = None,
        metric: str | None = None,
        test: Literal["t", "wilcoxon"] = "t",
        figure: str | None = None,
        effects: str | None = None,
        images: bool = True,
        wandb: bool = False,
    ) -> None:
        if not runs:
            raise ConfigError(
                "runs: none are given; give folders of runs, or a folder that contains them (runs/digits)"
            )
        self.runs, self.out = runs, expand(out)
        self.baseline, self.metric, self.test, self.images, self.wandb = baseline, metric, test, images, wandb
        figures = {"figure": figure, "effects": effects}
        self.figures = {name: expand(path) for name, path in figures.items() if path is not None}
        check_writable(self.out, "out")
        for name in WRITTEN:
            check_writable(self.out / name, "out", kind="file")
        for name, path in self.figures.items():
            from kd_lightning.reports.summary_plot import check_figure

            check_writable(path, name, kind="file")
            check_figure(path, name)
        if others := foreign(self.out):
            raise ConfigError(
                f"out: {self.out} contains files that do not belong to a report ({others[0]}); give another folder"
            )

    def __call__(self) -> Path:
        """Write the comparison, and return the path of the page."""
        from kd_lightning import reports
        from kd_lightning.reports import online

        with TemporaryDirectory() as temporary:
            folders, addresses = online.split(self.runs)
            problems = []
            for address in addresses:
                fetched, lines = online.fetch(address, Path(temporary))
                folders += map(str, fetched)
                problems += lines
            return self._compared(reports.read_runs(folders), problems)

    def _compared(self, runs: "reports.Runs", fetch_problems: list[str]) -> Path:
        from kd_lightning import reports
        from kd_lightning.reports import summary_plot, tables

        comparisons, lines = reports.compare(runs, baseline=self.baseline, metric=self.metric, test=self.test)
        problems = [*fetch_problems, *runs.problems, *lines]
        folder = folder_for(runs, self.out)
        if folder != self.out:
            problems.append(f"{self.out} contains a report of other runs, so this report is written to {folder}")
            self.out = folder
        for name, path in self.figures.items():
            write = {"figure": summary_plot.write_summary, "effects": summary_plot.write_effects}[name]
            write(comparisons, path)
        page = reports.page(comparisons, problems, folder=self.out, images=self.images)
        table = reports.frame(runs, config=True).map(cell).rename(columns=cell)
        texts = {"table.csv": table.to_csv(index=False), "table.md": tables.markdown(comparisons, problems)}
        with contextlib.ExitStack() as stack:  # if the disk is full, no existing file is changed
            for name, text in {**texts, "report.html": page}.items():
                stack.enter_context(atomic_write(self.out / name)).write_text(text, encoding="utf-8")
        console = wide()
        if self.wandb:
            try:
                addresses = self._publish(runs, comparisons)
                console.print("on W&B: " + ", ".join(addresses), soft_wrap=True, highlight=False)
            except ConfigError as error:  # the tables and the page are complete without W&B
                problems.append(str(error))
        for comparison in comparisons:
            console.print(tables.for_terminal(comparison))
            console.print(tables.column_notes(comparison), style="dim")
        for line in [*problems, *(line for comparison in comparisons for line in comparison.warnings)]:
            console.print(f"warning: {line}", soft_wrap=True, highlight=False)
        console.print(f"{counted(len(runs), 'run')}: {self.out / 'report.html'}", soft_wrap=True, highlight=False)
        return self.out / "report.html"

    def _publish(self, runs: "reports.Runs", comparisons: "list[reports.Comparison]") -> list[str]:
        from kd_lightning.reports import workspace

        projects = list(dict.fromkeys(run.results.run.get("project") for run in runs))
        if len(projects) != 1:
            names = ", ".join(repr(project or "") for project in projects)
            raise ConfigError(
                f"wandb: the runs belong to {len(projects)} W&B projects ({names}), but a workspace shows one project; "
                "give the runs of one project"
            )
        if not projects[0]:
            raise ConfigError("wandb: the results.json of the runs has no W&B project; give runs with run.project")
        metrics = [metric.name for comparison in comparisons for metric in comparison.metrics]
        return workspace.publish(None, projects[0], dict.fromkeys(metrics), self.out.name, self.out)
