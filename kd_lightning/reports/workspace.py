"""A W&B workspace and a W&B report with panels for the metrics of this package, built by wandb-workspaces."""

import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_lightning.errors import ConfigError
from kd_lightning.io.paths import read_text
from kd_lightning.loggers import has_key
from kd_lightning.reports.axes import TEACHER, describe, ordered
from kd_lightning.reports.values import printable

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

CURVES = ("val/acc", "val/knn", "train/loss")
RESULTS = ("test/acc", "test/knn", "test/linear", "test/agreement")
EVALUATED = ("calibration", "faithfulness", "representation", "out-of-distribution", "robustness", "privacy")
COSTS = ("cost/macs", "cost/parameters", "cost/latency_ms_1")
TABLES = ("test/per_class", "test/disagreement", "test/ood_histograms")
GROUPS = ("Group", "JobType")
"""Keys by which runs are grouped: first data and networks, then the method. `Run` sets both keys."""
LINKS = "wandb.json"
"""File with the addresses of the saved workspace and report. They are needed to update both."""


def sections(metrics: Iterable[str]) -> dict[str, list[Any]]:
    """Return the panels for the metrics of the runs, by section; empty sections are skipped.

    Lines and bars show the mean over the runs of a group, and the standard deviation.

    Args:
        metrics: names of metrics, as in results.json, including those of the teachers.
    """
    import wandb_workspaces.reports.v2 as wr

    names = {*metrics}
    aggregation = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}

    def bars(name: str) -> Any:
        teacher_names = [name + TEACHER] if name + TEACHER in names else []
        return wr.BarPlot(title=describe(name).title, metrics=[name, *teacher_names], **aggregation)

    evaluated = ordered(name for name in names if name.startswith("test/"))
    quality = next((name for name in RESULTS if name in names), "test/acc")
    panels_by_section = {
        "learning curves": [
            wr.LinePlot(title=name, x="epoch", y=[name], title_x="epoch", max_runs_to_show=100, **aggregation)
            for name in CURVES
        ],
        "results": [bars(name) for name in RESULTS if name in names],
    }
    panels_by_section |= {
        axis: [bars(metric.name) for metric in evaluated if metric.axis == axis] for axis in EVALUATED
    }
    panels_by_section["cost"] = [
        wr.ScatterPlot(
            title=f"{describe(quality).title} against {describe(name).title}",
            x=wr.SummaryMetric(name),
            y=wr.SummaryMetric(quality),
            log_x=True,
        )
        for name in COSTS
        if name in names
    ]
    panels_by_section["tables"] = [wr.WeavePanelSummaryTable(table_name=name) for name in TABLES]
    return {name: panels for name, panels in panels_by_section.items() if panels}


def workspace(entity: str, project: str, metrics: Iterable[str], title: str) -> "ws.Workspace":
    """Return a workspace for a project's runs; it is not saved, and W&B is not contacted.

    Args:
        entity: user or team on W&B.
        project: W&B project, as `run.project`.
        metrics: names of metrics, as in `sections`.
        title: name of the saved view.
    """
    import wandb_workspaces.workspaces as ws

    names = [*metrics]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=title,
        sections=[
            ws.Section(name=name, panels=panels, is_open=name in ("learning curves", "results"))
            for name, panels in sections(names).items()
        ],
        settings=ws.WorkspaceSettings(max_runs=100),
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Metric(name) for name in GROUPS],
            pinned_columns=[f"summary:{name}" for name in RESULTS if name in names],
        ),
    )


def report(entity: str, project: str, metrics: Iterable[str], title: str) -> "wr.Report":
    """Return a report with the same panels under headings; the report is not saved.

    Args:
        entity: user or team on W&B.
        project: W&B project, as `run.project`.
        metrics: names of metrics, as in `sections`.
        title: title of the report.
    """
    import wandb_workspaces.reports.v2 as wr

    runs = {"entity": entity, "project": project, "name": "runs", "groupby": [*GROUPS]}
    blocks: list[Any] = [wr.TableOfContents()]
    for name, panels in sections(metrics).items():
        for number, panel in enumerate(panels):
            panel.layout = wr.Layout(x=8 * (number % 3), y=6 * (number // 3), w=8, h=6)
        blocks += [wr.H2(name.capitalize()), wr.PanelGrid(runsets=[wr.Runset(**runs)], panels=panels)]
    return wr.Report(entity=entity, project=project, title=title, blocks=blocks, width="fluid")


def publish(entity: str | None, project: str, metrics: Iterable[str], title: str, folder: Path) -> list[str]:
    """Save a workspace and a report on W&B.

    If they were saved from this folder before, `wandb.json` contains their addresses, and they are updated.

    Args:
        entity: user or team. None means the default of the key.
        project: W&B project, as `run.project`.
        metrics: names of metrics, as in `sections`.
        title: title of the workspace and of the report.
        folder: folder of the local report.

    Returns:
        The addresses of the workspace and of the report.

    Raises:
        ConfigError: if the library, the key or the network is missing.
    """
    if find_spec("wandb_workspaces") is None:
        raise ConfigError("wandb: wandb-workspaces is not installed; pip install 'kd_lightning[wandb]'")
    if not has_key():
        raise ConfigError("wandb: no W&B key found, so no workspace is saved; run wandb login, or set WANDB_API_KEY")
    import wandb

    title = title.replace("/", " ")  # a report's address contains the title and cannot be parsed with a slash
    path, names = folder / LINKS, [*metrics]
    saved_links = json.loads(read_text(path)) if path.exists() else {}
    try:
        entity = entity or wandb.Api().default_entity
        links = {}
        for part, new in (("workspace", workspace), ("report", report)):
            links[part] = _saved(new(entity, project, names, title), saved_links.get(part))
            # written after each of the two, so that an error of the second one does not lose the first address
            path.write_text(json.dumps({**saved_links, **links}, indent=1) + "\n")
    except Exception as error:  # from the library, its HTTP client or the server
        reason = printable(str(error) or type(error).__name__, 200)
        raise ConfigError(f"wandb: no workspace was saved: {reason}") from error
    return [*links.values()]


def _saved(new: Any, address: str | None) -> str:
    """Save `new` and return its address. If something still exists at the given address, it is replaced."""
    if address:
        try:
            old = type(new).from_url(address)
        except Exception:  # deleted, or from another project
            return new.save().url
        if (old.entity, old.project) == (new.entity, new.project):
            content = "blocks" if hasattr(old, "blocks") else "sections"
            setattr(old, content, getattr(new, content))
            return old.save().url
    return new.save().url
