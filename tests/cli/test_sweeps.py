"""Sweep files: W&B's own agent makes commands of them that `fit` takes, and they are evaluated by validation images."""

import itertools
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

from kd_lightning.cli import main

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs/sweeps").glob("*.yaml"))
BRIEF = ["--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--run.wandb=off"]
BRIEF += ["--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1"]


def corners(content: dict) -> list[dict]:
    """The first and the last value of each parameter with those of each other."""
    ends = {
        name: dict.fromkeys(given["values"][:: len(given["values"]) - 1])
        for name, given in content["parameters"].items()
    }
    return [dict(zip(ends, values, strict=True)) for values in itertools.product(*ends.values())]


def command(content: dict, values: dict) -> list[str]:
    """The command line of one of the sweep's runs, as wandb's agent fills it in."""
    variables = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    variables |= {"env": ["/usr/bin/env"], "interpreter": ["python"]}
    line: list[str] = []
    for part in create_sweep_command([*content["command"]]):
        line += variables[part[2:-1]] if part.startswith("${") else [part]
    return line


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_corner_is_taken(file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(ROOT)
    content = load_sweep_config(str(file))
    assert {*content} <= {
        "name",
        "description",
        "project",
        "method",
        "metric",
        "parameters",
        "command",
        "early_terminate",
    }
    assert content["method"] in ("grid", "random", "bayes")
    assert content["metric"]["goal"] in ("maximize", "minimize")
    for values in corners(content):
        line = command(content, values)
        assert line[:4] == ["/usr/bin/env", "python", "-m", "kd_lightning"]
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*line[4:], "--print_config"])
        printed = capfd.readouterr()
        assert not ended.value.code, printed.err
        config = yaml.safe_load(printed.out)
        for name, value in values.items():
            group, _, field = name.partition(".")
            assert (config[group]["init_args"][field] if field else config[group]) == value


@pytest.mark.e2e
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_its_metric_is_of_the_validation_and_logged(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    content = load_sweep_config(str(file))
    metric = content["metric"]["name"]
    assert metric.startswith("val/")
    main([*command(content, corners(content)[-1])[4:], *BRIEF, f"--run.output_dir={tmp_path}"])
    (path,) = tmp_path.rglob("metrics.csv")
    columns = path.read_text().splitlines()[0].split(",")
    assert metric in columns
    assert not [name for name in columns if name.startswith("test/")]  # a sweep looks at no test image
