"""The effect of settings: which settings are compared, and what is drawn."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.fake_runs import write_run, write_runs

from kd_lightning import reports
from kd_lightning.cli import main
from kd_lightning.reports import effects, tables

WEIGHTS, RATES, SEEDS = (30.0, 300.0, 3000.0), (0.05, 0.1), 3


def write_sweep(folder: Path) -> None:
    """Runs of SP for all combinations of WEIGHTS, RATES and seeds, with a baseline."""
    write_runs(folder, ("baseline",), SEEDS)
    for weight in WEIGHTS:
        for rate in RATES:
            for seed in range(SEEDS):
                run = write_run(folder, f"sp-sp_weight={weight:g},lr={rate}", seed)
                results, config = run / "results.json", yaml.safe_load((run / "config.yaml").read_text())
                config["model"]["class_path"] = "kd_lightning.methods.SP"
                arguments = config["model"]["init_args"]
                arguments.pop("temperature", None)
                arguments |= {"sp_weight": weight, "optimizer": {"class_path": "SGD", "init_args": {"lr": rate}}}
                (run / "config.yaml").write_text(yaml.safe_dump(config))
                results.write_text(results.read_text().replace('"method": "KD"', '"method": "SP"'))


@pytest.fixture
def comparison(tmp_path: Path) -> reports.Comparison:
    write_sweep(tmp_path)
    (one,), _ = reports.compare(reports.read_runs(tmp_path))
    return one


def test_settings_are_columns_and_groups_are_in_their_order(comparison: reports.Comparison) -> None:
    assert [*comparison.varied] == ["model.optimizer.lr", "model.sp_weight"]
    table = tables.summary(comparison)
    assert [*table.columns[:2]] == ["lr", "sp_weight"]
    expected = [("", "")] + [(f"{rate}", f"{weight:g}") for rate in RATES for weight in WEIGHTS]
    rows = [*table[["lr", "sp_weight"]].itertuples(index=False, name=None)]
    assert rows[: len(expected)] == expected  # the teacher follows
    assert comparison.baseline == "baseline"


def test_the_effect_of_a_number_is_a_line_per_other_setting(comparison: reports.Comparison) -> None:
    figure = effects.effect(comparison, "model.sp_weight")
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    lines = {container.get_label(): container for container in axes.containers}
    assert {*lines} == {"lr 0.05", "lr 0.1"}
    for rate in RATES:
        data = lines[f"lr {rate}"].lines[0]
        np.testing.assert_allclose(np.asarray(data.get_xdata(), float), WEIGHTS)
        accuracies = [
            [run.metrics["test/acc"] for run in comparison.runs if run.group == f"sp-sp_weight={weight:g},lr={rate}"]
            for weight in WEIGHTS
        ]
        np.testing.assert_allclose(np.asarray(data.get_ydata(), float), 100 * np.mean(accuracies, axis=1))
        (bars,) = lines[f"lr {rate}"].lines[2]
        half = [(top[1] - bottom[1]) / 2 for bottom, top in bars.get_segments()]
        np.testing.assert_allclose(np.asarray(half, float), 100 * np.std(accuracies, axis=1, ddof=1))
    (axes,) = effects.effect(comparison, "model.optimizer.lr").axes
    assert axes.get_xscale() == "linear"
    assert len(effects.effects(comparison).axes) == 2


def test_a_setting_that_is_no_number_has_its_names_as_ticks(tmp_path: Path) -> None:
    for name in ("resnet8", "resnet20"):
        run = write_run(tmp_path, f"kd-{name}", 0)
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["model"]["init_args"]["student"]["name"] = name
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    (one,), _ = reports.compare(reports.read_runs(tmp_path))
    (axes,) = effects.effect(one, "model.student.name").axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["resnet20", "resnet8"]


def test_two_methods_are_no_sweep_and_many_differences_neither(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    write_runs(tmp_path / "runs", ("baseline", "kd", "sp"), 2)
    (one,), _ = reports.compare(reports.read_runs(tmp_path / "runs"))
    assert one.varied == {}
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(tmp_path / "runs"), f"--out={tmp_path / 'out'}", f"--effects={tmp_path / 'x.svg'}"])
    assert ended.value.code == 2
    assert capfd.readouterr().err == (
        "error: effects: the runs of a method differ in no setting, or in more than 6; give the runs of `repeat "
        "--sweep`, or omit effects\n"
    )
    assert not (tmp_path / "x.svg").exists()


def test_the_command_writes_page_and_figure(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    write_sweep(tmp_path / "runs")
    main(["compare", str(tmp_path / "runs"), f"--out={tmp_path / 'out'}", f"--effects={tmp_path / 'x.svg'}"])
    assert (tmp_path / "x.svg").read_text().startswith("<?xml")
    page = (tmp_path / "out/report.html").read_text()
    assert "Effect of settings" in page
    assert '<th scope="col">sp_weight</th>' in page
    assert "| lr | sp_weight |" in (tmp_path / "out/table.md").read_text()
    assert "sp_weight" in capfd.readouterr().out
