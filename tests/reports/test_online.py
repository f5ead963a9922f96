"""Runs of a W&B project, by wandb's own Run objects over a made-up server, read like folders of this machine."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import fake_runs
from wandb.apis.public.runs import Run

from kd_lightning.errors import ConfigError
from kd_lightning.reports import online
from kd_lightning.reports.runs import read_runs


class Api:
    """As `wandb.Api`: what `runs` gives are wandb's own objects, of the attributes that its server sends."""

    def __init__(self, runs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent, self.asked = runs, []
        histories = {run["name"]: run.pop("history") for run in runs}
        monkeypatch.setattr(Run, "scan_history", lambda run: iter(histories[run.id]))

    def runs(self, path: str, *, lazy: bool) -> list[Run]:
        self.asked.append(path)
        assert not lazy  # else each run's config is a request of its own
        entity, project = path.split("/")
        return [Run(None, entity, project, sent["name"], sent, lazy=False) for sent in self.sent]


def sent(name: str = "kd", seed: int = 0, *, facts: bool = False, **more: Any) -> dict[str, Any]:
    """What the server sends of a run that `fit` has logged."""
    config = fake_runs.config("KD", name, seed)
    if facts:
        data = {"name": "digits", "classes": 10, "train": 1293, "val": 144, "test": 360, "side": 8}
        run = {"teacher_fingerprint": "f00d"}
        config["results"] = {"run": run, "data": data, "code": {"version": "0.1.0"}, "seconds": 30.5}
    summary = {
        "test/acc": 0.93, "test/acc_teacher": 0.97, "test/nll": "NaN", "cost/macs": 53152, "val/acc": 0.9,
        "best/val/acc": 0.95, "selected/select": "best", "selected/epoch": 4, "selected/step": 100, "last/val/acc": 0.9,
        "test/per_class": {"_type": "table-file", "path": "media/table/x.json"}, "_wandb": {"runtime": 61}, "epoch": 6,
    }  # fmt: skip
    history = [
        {"_step": 0, "_timestamp": 1.0, "epoch": 0, "trainer/global_step": 10, "train/loss": 1.5},
        {"_step": 1, "_timestamp": 2.0, "epoch": 0, "trainer/global_step": 20, "val/acc": 0.5, "val/ce": "NaN"},
        {"_step": 2, "_timestamp": 3.0, "test/per_class": {"_type": "table-file"}},
        {"_step": 3, "_timestamp": 4.0, "epoch": 6, "trainer/global_step": 30, "test/acc": 0.93},
    ]
    found = {
        "id": "UnVuOnYx", "name": f"id{seed}", "displayName": f"{name}-s{seed}", "state": "finished", "tags": [],
        "config": json.dumps({key: {"value": value} for key, value in config.items()} | {"_wandb": {"value": {}}}),
        "summaryMetrics": json.dumps(summary), "systemMetrics": "{}", "group": "digits/t-s", "jobType": "kd",
        "commit": "3ceaa6b0123456", "createdAt": f"2026-01-0{seed + 1}T10:00:00Z", "sweepName": None,
        "historyKeys": None, "history": history, "user": {"name": "me", "username": "me"},
    }  # fmt: skip
    return {**found, **more}


def test_online_runs_read_like_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api([sent(seed=0), sent(seed=1)], monkeypatch)
    folders, lines = online.fetch("wandb:me/digits", tmp_path, api)
    assert api.asked == ["me/digits"]
    assert lines == []
    assert folders == [tmp_path / "digits" / "kd-s0" / "id0", tmp_path / "digits" / "kd-s1" / "id1"]
    runs = read_runs(folders)
    assert runs.problems == []
    assert runs.groups == ["kd"]  # the seeds are one group: the config is whole
    assert [run.seed for run in runs] == [0, 1]
    run = runs.runs[0]
    assert run.metrics == {"test/acc": 0.93, "test/acc_teacher": 0.97, "cost/macs": 53152.0, "val/acc": 0.95}
    assert run.results.run | {"seed": 0} == {
        "project": "digits", "name": "kd-s0", "id": "id0", "group": "digits/t-s", "method": "KD", "seed": 0,
        "teacher": "cifar_resnet20.digits", "teacher_fingerprint": None, "student": "cifar_resnet8",
    }  # fmt: skip
    protocol = run.results.protocol
    assert (protocol["select"], protocol["epoch"], protocol["step"], protocol["max_epochs"]) == ("best", 4, 100, 6)
    assert (run.results.data["name"], run.results.code["commit"], run.results.seconds) == ("digits", "3ceaa6b", 61)
    assert run.config == fake_runs.config("KD", "kd", 0)
    table = run.history
    assert [*table.columns] == ["epoch", "step", "train/loss", "val/acc"]
    assert table["train/loss"].dropna().tolist() == [1.5]
    assert table["val/acc"].dropna().tolist() == [0.5]
    assert table["step"].tolist() == [10, 20]


def test_what_the_writer_put_into_the_config_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders, _ = online.fetch("wandb:me/digits", tmp_path, Api([sent(facts=True)], monkeypatch))
    (run,) = read_runs(folders)
    assert run.results.data["test"] == 360
    assert run.results.run["teacher_fingerprint"] == "f00d"
    assert run.results.code == {
        "commit": "3ceaa6b", "version": "0.1.0", "torch": None, "timm": None, "lightning": None, "changed": None
    }  # fmt: skip
    assert run.results.seconds == 30.5
    assert "results" not in yaml.safe_load((folders[0] / "config.yaml").read_text())


def test_names_from_afar_stay_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api([sent(displayName="../../x"), sent(seed=1, displayName=None)], monkeypatch)
    folders, _ = online.fetch("wandb:me/digits", tmp_path / "in", api)
    for folder in folders:
        assert folder.resolve().is_relative_to((tmp_path / "in").resolve())
        assert len(folder.relative_to(tmp_path / "in").parts) == 3


def test_runs_without_results_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished = sent(seed=1, state="running", summaryMetrics='{"val/acc": 0.5}')
    folders, lines = online.fetch("wandb:me/digits", tmp_path, Api([sent(), unfinished], monkeypatch))
    assert len(folders) == 1
    assert lines == ["wandb:me/digits: runs without results are skipped: kd-s1 (running)"]


@pytest.mark.parametrize("address", ["wandb:", "wandb:/", "wandb:a/b/c", "wandb:a//b", "wandb:a/"])
def test_an_address_that_is_none(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a W&B project; write wandb:entity/project"):
        online.fetch(address, tmp_path)


def test_offline_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"^runs: wandb:me/p: no W&B key found; run wandb login"):
        online.fetch("wandb:me/p", tmp_path)
    monkeypatch.setattr(online, "has_key", lambda: True)

    def api() -> None:
        raise ConnectionError("no route to\nhost")

    monkeypatch.setattr(online.wandb, "Api", api)
    with pytest.raises(ConfigError, match=r"^runs: wandb:me/p cannot be read: no route to host$"):
        online.fetch("wandb:me/p", tmp_path)
    with pytest.raises(ConfigError, match=r"^runs: wandb:me/p has no runs$"):
        online.fetch("wandb:me/p", tmp_path, Api([], monkeypatch))


def test_paths_and_addresses() -> None:
    assert online.split(["runs/x", "wandb:a/b"]) == (["runs/x"], ["wandb:a/b"])
