"""compare beside W&B: a project read as folders are, and what is saved there."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.drawing import draw_nothing
from helpers.fake_runs import write_runs

from kd_lightning.cli import main
from kd_lightning.commands.compare import Compare
from kd_lightning.errors import ConfigError
from kd_lightning.reports import online, workspace


@pytest.fixture
def keyless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


@pytest.mark.usefixtures("keyless")
def test_without_a_key_the_report_is_written_and_one_line_says_what_is_not(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_nothing(monkeypatch)
    write_runs(tmp_path / "runs", ("baseline", "kd"))
    out = tmp_path / "report"
    main(["compare", str(tmp_path / "runs"), "--out", str(out), "--wandb", "--images=false"])
    assert (out / "report.html").exists()
    said = [line for line in capfd.readouterr().out.splitlines() if "wandb" in line]
    assert said == ["warning: wandb: no W&B key found, so no workspace is saved; run wandb login, or set WANDB_API_KEY"]
    with pytest.raises(SystemExit):
        main(["compare", "wandb:me/project", "--out", str(tmp_path / "other")])
    assert "no W&B key found" in capfd.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_projects_runs_stand_beside_folders_and_a_workspace_is_saved(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_runs(tmp_path / "runs", ("baseline",))
    write_runs(tmp_path / "online", ("kd",))
    asked, saved = [], []

    def fetch(address: str, folder: Path) -> tuple[list[Path], list[str]]:
        asked.append(address)
        return [tmp_path / "online"], [f"{address}: without results, left out: x"]

    def publish(entity: None, project: str, metrics: dict, title: str, folder: Path) -> list[str]:
        saved.append((entity, project, [*metrics][:1], title, folder))
        return ["https://w", "https://r"]

    monkeypatch.setattr(online, "fetch", fetch)
    monkeypatch.setattr(workspace, "publish", publish)
    draw_nothing(monkeypatch)
    out = tmp_path / "report"
    main(["compare", str(tmp_path / "runs"), "wandb:me/p", "--wandb", "--out", str(out), "--images=false"])
    printed = capfd.readouterr().out
    assert asked == ["wandb:me/p"]
    assert "digits: 6 runs" in printed
    assert "warning: wandb:me/p: without results, left out: x" in printed
    assert "on W&B: https://w, https://r" in printed
    assert [entry[1:2] + entry[3:] for entry in saved] == [("digits", "report", out)]
    (out / workspace.LINKS).write_text("{}")  # is the report's own, and may lie there
    main(["compare", str(tmp_path / "runs"), "--out", str(out), "--images=false"])


@pytest.mark.parametrize(
    ("projects", "words"),
    [
        (["a", "b"], "wandb: the runs belong to 2 W&B projects ('a', 'b'), but a workspace shows one project"),
        ([""], "wandb: the results.json of the runs has no W&B project"),
    ],
)
def test_a_workspace_needs_one_project(tmp_path: Path, projects: list[str], words: str) -> None:
    runs = [SimpleNamespace(results=SimpleNamespace(run={"project": project})) for project in projects]
    with pytest.raises(ConfigError, match=re.escape(words)):
        Compare(["runs"], out=str(tmp_path / "report"))._publish(runs, [])
