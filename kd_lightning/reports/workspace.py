"""A W&B workspace and report with this project's panels, in wandb-workspaces' object model."""

import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_lightning.errors import ConfigError
from kd_lightning.loggers import has_key
from kd_lightning.reports.axes import TEACHER, describe, ordered
from kd_lightning.reports.values import printable

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

CURVES = ("val/acc", "val/knn", "train/loss")
RESULTS = ("test/acc", "test/knn", "test/linear", "test/agreement")
EVALUATED = ("calibration", "faithfulness", "representation", "out-of-distribution", "robustness")
COSTS = ("cost/macs", "cost/parameters", "cost/latency_ms_1")
TABLES = ("test/per_class", "test/disagreement", "test/ood_histograms")
GROUPS = ("Group", "JobType")
"""What runs are grouped by: data and networks, then the method (Run gives both)."""
LINKS = "wandb.json"
"""The file that says which workspace and report were saved before, and are updated."""


def sections(metrics: Iterable[str]) -> dict[str, list[Any]]:
    """Panels by section, of the metrics that runs have; a section without any is left out.

    Lines and bars are the mean over the runs of a group, with the standard deviation.

    Args:
        metrics: names as in results.json, teachers' own among them.
    """
    import wandb_workspaces.reports.v2 as wr

    names = {*metrics}
    spread = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}

    def bars(name: str) -> Any:
        beside = [name + TEACHER] if name + TEACHER in names else []
        return wr.BarPlot(title=describe(name).title, metrics=[name, *beside], **spread)

    evaluated = ordered(name for name in names if name.startswith("test/"))
    quality = next((name for name in RESULTS if name in names), "test/acc")
    found = {
        "learning curves": [
            wr.LinePlot(title=name, x="epoch", y=[name], title_x="epoch", max_runs_to_show=100, **spread)
            for name in CURVES
        ],
        "results": [bars(name) for name in RESULTS if name in names],
    }
    found |= {axis: [bars(metric.name) for metric in evaluated if metric.axis == axis] for axis in EVALUATED}
    found["cost"] = [
        wr.ScatterPlot(
            title=f"{describe(quality).title} against {describe(name).title}",
            x=wr.SummaryMetric(name),
            y=wr.SummaryMetric(quality),
            log_x=True,
        )
        for name in COSTS
        if name in names
    ]
    found["tables"] = [wr.WeavePanelSummaryTable(table_name=name) for name in TABLES]
    return {name: panels for name, panels in found.items() if panels}


def workspace(entity: str, project: str, metrics: Iterable[str], title: str) -> "ws.Workspace":
    """A workspace over a project's runs, not saved: nobody is called.

    Args:
        entity: user or team on W&B.
        project: as `run.project`.
        metrics: as for `sections`.
        title: what the saved view is called.
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
    """A report with the same panels under headings, not saved.

    Args:
        entity: user or team on W&B.
        project: as `run.project`.
        metrics: as for `sections`.
        title: of the report.
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
    """Saves both on W&B, or updates what was saved from this folder before (`wandb.json`).

    Args:
        entity: user or team; None: the key's own.
        project: as `run.project`.
        metrics: as for `sections`.
        title: of both.
        folder: of the report that is written here.

    Returns:
        Their addresses.

    Raises:
        ConfigError: in one line, if the library, the key or the network is missing.
    """
    if find_spec("wandb_workspaces") is None:
        raise ConfigError("wandb: wandb-workspaces is not installed; pip install 'kd_lightning[wandb]'")
    if not has_key():
        raise ConfigError("wandb: there is no W&B key, so no workspace is saved; run wandb login, or set WANDB_API_KEY")
    import wandb

    title = title.replace("/", " ")  # a report's address has it in it, and is not read back with one
    path, names = folder / LINKS, [*metrics]
    before = json.loads(path.read_text()) if path.exists() else {}
    try:
        entity = entity or wandb.Api().default_entity
        links = {}
        for kind, new in (("workspace", workspace), ("report", report)):
            links[kind] = _saved(new(entity, project, names, title), before.get(kind))
            path.write_text(json.dumps({**before, **links}, indent=1) + "\n")  # what is saved is known, come what may
    except Exception as error:  # the library's, its HTTP client's, the server's: nothing here depends on which
        reason = printable(str(error) or type(error).__name__, 200)
        raise ConfigError(f"wandb: no workspace was saved: {reason}") from error
    return [*links.values()]


def _saved(new: Any, before: str | None) -> str:
    """Saves, in place of what has that address if it is still there; the address."""
    if before:
        try:
            old = type(new).from_url(before)
        except Exception:  # deleted on the page, or another project's
            return new.save().url
        if (old.entity, old.project) == (new.entity, new.project):
            content = "blocks" if hasattr(old, "blocks") else "sections"
            setattr(old, content, getattr(new, content))
            return old.save().url
    return new.save().url
