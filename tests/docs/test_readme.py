"""What the README and the pages show is what runs."""

import re
import sys
from pathlib import Path

import pytest

from kd_lightning.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def block(name: str, text: str = README) -> str:
    """The code block that follows the comment <!-- name -->."""
    return re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", text, re.S)[1]


def test_the_example_method_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cosine.py").write_text(block("method", (ROOT / "docs/adding-a-method.md").read_text()))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cosine", raising=False)
    args = ["fit", f"--config={ROOT / 'configs/digits/sp.yaml'}", "--model=cosine.Cosine", "--model.cosine_weight=2"]
    args += ["--trainer.max_epochs=5", "--trainer.enable_progress_bar=false", "--run.wandb=off"]
    cli = main([*args, f"--run.output_dir={tmp_path}", "--trainer.accelerator=cpu"])
    assert type(cli.model).__name__ == "Cosine"
    assert cli.model.cosine_weight == 2
    assert float(cli.trainer.callback_metrics["test/acc"]) > 0.5  # chance is 0.1
    (csv,) = tmp_path.rglob("metrics.csv")
    assert "train/cosine" in csv.read_text().splitlines()[0]


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(block("python").replace("max_epochs=5", "fast_dev_run=2, accelerator='cpu'"), names)
    assert names["trainer"].callback_metrics["test/acc"] >= 0


@pytest.mark.parametrize("name", ["main-job", "tests"])
def test_both_commands_install_the_tested_versions(name: str) -> None:
    command = block(name)
    assert len(command.splitlines()) == 1
    installs = re.findall(r"(?:uv )?pip install [^&]+", command)
    assert len(installs) == 2
    assert "-c constraints.txt uv" in installs[0]
    assert "-c constraints.txt -b constraints.txt -e " in installs[1]
    assert command.startswith("python3 -m venv .venv && . .venv/bin/activate && pip install ")


def test_the_pages_show_the_same_commands() -> None:
    assert block("tests") in (ROOT / "CONTRIBUTING.md").read_text()
    install = block("main-job").rpartition(" && ")[0]
    assert f"{install}\n" in (ROOT / "docs/getting-started.md").read_text()


def test_paths_and_models_that_are_named_exist() -> None:
    for path in re.findall(r"configs/[\w./-]+?\.yaml", README):
        assert (ROOT / path).exists(), path
    for folder in re.findall(r"`(kd_lightning/\w+/)`", README):
        assert (ROOT / folder).is_dir(), folder
    assert "python -m pytest" in block("tests")
    assert "configs/quickstart.yaml" in block("main-job")


def test_it_leads_to_every_page() -> None:
    """Each fact has one place; README says where."""
    pages = {page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").glob("*.md")}
    pages -= {"docs/index.md", "docs/changelog.md", "docs/contributing.md"}  # the last two show files beside README
    linked = {*re.findall(r"\]\((docs/[\w/-]+\.md)", README)}
    assert pages <= linked
    assert "(CONTRIBUTING.md)" in README
    assert "(CHANGELOG.md)" in README
    for figure in re.findall(r"([\d.]{5}) times", README.partition("**Speed.**")[2].partition("\n\n")[0]):
        assert figure in (ROOT / "docs/speed.md").read_text()  # rounded nowhere
