"""The W&B workspace and report, as wandb-workspaces' own objects and their specs; nobody is called."""

import base64
import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kd_lightning.errors import ConfigError
from kd_lightning.reports import workspace as module
from kd_lightning.reports.workspace import publish, report, sections, workspace

wr = pytest.importorskip("wandb_workspaces.reports.v2")
ws = pytest.importorskip("wandb_workspaces.workspaces")

METRICS = [
    "test/acc", "test/acc_teacher", "test/knn", "test/linear", "test/agreement", "test/ece", "test/ece_teacher",
    "test/nll", "test/cka", "test/neighbors_10", "test/few_shot_5", "test/ood_knn_noise", "test/ood_knn_noise_fpr95",
    "test/corrupted", "test/shift_sketch", "cost/macs", "cost/parameters", "cost/macs_teacher", "val/acc", "seconds",
    "test/membership_loss_auroc", "test/membership_loss_auroc_teacher",
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError("a test called the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def spec(built: Any) -> list[dict]:
    """The sections as they are sent, through JSON."""
    model = built._to_model()
    return json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))["section"]["panelBankConfig"][
        "sections"
    ]


def shown(panel: dict) -> list[str]:
    """The names of metrics or tables that a panel of a spec shows."""
    config = panel["config"]
    if "panel2Config" in config:
        return [config["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"]]
    return config.get("metrics") or [config["xAxis"], config["yAxis"]]


class Server:
    """What W&B answers to the library, which saves and loads by itself."""

    app_url = "https://w"

    def __init__(self) -> None:
        self.views: dict[str, dict] = {}
        self._service_api = self  # where the library looks for it, as in wandb.Api
        self.default_entity = "me"

    def projects(self, entity: str) -> list:
        return [SimpleNamespace(name="p"), SimpleNamespace(name="other")]

    def execute_graphql(self, query: str, variables: dict) -> dict:
        if "upsertView" in query:
            key = variables.get("id") or base64.b64encode(b"View:%04d" % len(self.views)).decode()
            project = {"name": variables["projectName"], "entityName": variables["entityName"], "id": "7"}
            kept = {name: variables[name] for name in ("name", "displayName", "spec")}
            self.views[key] = {"id": key, **kept, "description": "", "project": project}
            return {"upsertView": {"view": dict(self.views[key]), "inserted": True}}
        if "allViews" in query:
            nodes = [{"node": dict(view)} for view in self.views.values() if view["name"] == variables["viewName"]]
            return {"project": {"allViews": {"edges": nodes}}}
        if "SpecificReport" in query:
            return {"view": dict(self.views[variables["reportId"]])}
        return {"project": {"internalId": "7"}}

    def names(self) -> list[str]:
        return [view["project"]["name"] for view in self.views.values()]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr("wandb.Api", lambda: server)
    monkeypatch.setattr(module, "has_key", lambda: True)
    return server


def test_sections_show_the_metrics_of_their_axis() -> None:
    found = {
        part["name"]: [shown(panel) for panel in part["panels"]] for part in spec(workspace("me", "p", METRICS, "t"))
    }
    assert found == {
        "learning curves": [["val/acc"], ["val/knn"], ["train/loss"]],
        "results": [["test/acc", "test/acc_teacher"], ["test/knn"], ["test/linear"], ["test/agreement"]],
        "calibration": [["test/nll"], ["test/ece", "test/ece_teacher"]],
        "faithfulness": [["test/agreement"], ["test/cka"], ["test/neighbors_10"]],
        "representation": [["test/knn"], ["test/linear"], ["test/few_shot_5"]],
        "out-of-distribution": [["test/ood_knn_noise"], ["test/ood_knn_noise_fpr95"]],
        "robustness": [["test/corrupted"], ["test/shift_sketch"]],
        "privacy": [["test/membership_loss_auroc", "test/membership_loss_auroc_teacher"]],
        "cost": [["summary:cost/macs", "summary:test/acc"], ["summary:cost/parameters", "summary:test/acc"]],
        "tables": [["test/per_class"], ["test/disagreement"], ["test/ood_histograms"]],
    }
    views = {
        part["name"]: {panel["viewType"] for panel in part["panels"]}
        for part in spec(workspace("me", "p", METRICS, "t"))
    }
    assert views["learning curves"] == {"Run History Line Plot"}
    assert views["results"] == {"Bar Chart"}
    assert views["cost"] == {"Scatter Plot"}
    assert views["tables"] == {"Weave"}


def test_runs_are_grouped_and_lines_are_means_with_deviations_over_epochs() -> None:
    built = workspace("me", "p", METRICS, "kd_lightning: p")
    model = built._to_model()
    assert (model.entity, model.project, model.display_name) == ("me", "p", "kd_lightning: p")
    (runs,) = model.spec.section.run_sets
    assert [(key.section, key.name) for key in runs.grouping] == [("run", "group"), ("run", "jobType")]
    assert runs.run_feed.column_pinned == {
        f"{part}:{name}": True
        for part, name in [("run", "displayName"), *(("summary", name) for name in module.RESULTS)]
    }
    assert not built.auto_generate_panels
    for panel in built.sections[0].panels:
        config = panel._to_model().config
        assert (config.x_axis, config.group_agg, config.group_area) == ("epoch", "mean", "stddev")
    assert [part.is_open for part in built.sections] == [True, True] + [False] * 8


def test_runs_without_labels_are_evaluated_by_their_neighbours() -> None:
    found = sections(["test/knn", "cost/macs"])
    assert [*found] == ["learning curves", "results", "representation", "cost", "tables"]
    assert found["cost"][0].y == wr.SummaryMetric("test/knn")


@pytest.mark.usefixtures("server")
def test_the_report_has_the_same_panels_side_by_side() -> None:
    built = report("me", "p", METRICS, "p: methods")
    model = built._to_model()
    blocks = [json.loads(block.model_dump_json(by_alias=True, exclude_none=True)) for block in model.spec.blocks]
    grids = [block["metadata"] for block in blocks if block.get("type") == "panel-grid"]
    expected = spec(workspace("me", "p", METRICS, "t"))
    assert [[shown(panel) for panel in grid["panelBankSectionConfig"]["panels"]] for grid in grids] == [
        [shown(panel) for panel in part["panels"]] for part in expected
    ]
    headings = [block["children"][0]["text"] for block in blocks if block.get("type") == "heading"]
    assert headings == [part["name"].capitalize() for part in expected]
    layouts = [(panel["layout"]["x"], panel["layout"]["y"]) for panel in grids[1]["panelBankSectionConfig"]["panels"]]
    assert layouts == [(0, 0), (8, 0), (16, 0), (0, 6)]
    assert [key["name"] for key in grids[0]["runSets"][0]["grouping"]] == ["group", "jobType"]


def test_what_was_saved_before_is_updated(tmp_path: Path, server: Server) -> None:
    first = publish("me", "p", ["test/acc"], "a/b", tmp_path)
    assert [address.partition("/p")[0] for address in first] == ["https://w/me", "https://w/me"]
    assert json.loads((tmp_path / "wandb.json").read_text()) == {"workspace": first[0], "report": first[1]}
    before = {key: view["spec"] for key, view in server.views.items()}
    assert publish(None, "p", METRICS, "a/b", tmp_path) == first
    assert [*server.views] == [*before]
    for key, part in zip(before, ("test/ood_knn_noise", "test/ood_knn_noise"), strict=True):
        assert part not in before[key]
        assert part in server.views[key]["spec"]
    other = publish("me", "other", METRICS, "t", tmp_path)
    assert {*other} & {*first} == set()
    assert server.names() == ["p", "p", "other", "other"]
    del server.views[[*server.views][2]]  # on the page
    again = publish("me", "other", METRICS, "t", tmp_path)
    assert again[1] == other[1]
    assert again[0] != other[0]


def test_refusals_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"^wandb: no W&B key found.*wandb login"):
        publish("me", "p", METRICS, "t", tmp_path)
    monkeypatch.setattr(module, "has_key", lambda: True)

    def no_route(built: Any) -> Any:
        raise ConnectionError("no route to\nhost")

    monkeypatch.setattr(ws.Workspace, "save", no_route)
    with pytest.raises(ConfigError, match=r"^wandb: no workspace was saved: no route to host$"):
        publish("me", "p", METRICS, "t", tmp_path)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'kd_lightning\[wandb\]'"):
        publish("me", "p", METRICS, "t", tmp_path)
    assert not [*tmp_path.iterdir()]
