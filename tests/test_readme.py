"""What the README shows is what runs."""

import re
import sys
from pathlib import Path

import pytest

from kd_lightning.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(name: str) -> str:
    """The code block that follows the comment <!-- name -->."""
    return re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", README, re.S)[1]


def test_the_example_method_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cosine.py").write_text(block("method"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cosine", raising=False)
    args = ["fit", f"--config={ROOT / 'configs/digits/sp.yaml'}", "--model=cosine.Cosine", "--model.cosine_weight=2"]
    args += ["--trainer.max_epochs=5", "--trainer.enable_progress_bar=false", "--run.wandb=off"]
    cli = main([*args, f"--run.folder={tmp_path}", "--trainer.accelerator=cpu"])
    assert type(cli.model).__name__ == "Cosine"
    assert cli.model.cosine_weight == 2
    assert float(cli.trainer.callback_metrics["test/acc"]) > 0.5  # chance is 0.1
    (csv,) = tmp_path.rglob("metrics.csv")
    assert "train/cosine" in csv.read_text().splitlines()[0]


def test_paths_and_models_that_are_named_exist() -> None:
    for path in re.findall(r"configs/[\w./-]+?\.yaml", README):
        assert (ROOT / path).exists(), path
    for folder in re.findall(r"`(kd_lightning/\w+/)`", README):
        assert (ROOT / folder).is_dir(), folder
    assert "python -m pytest" in block("tests")
    assert "configs/quickstart.yaml" in block("main-job")
