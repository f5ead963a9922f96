"""compare through the command line."""

from inspect import signature
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
from helpers.drawing import draw_nothing
from helpers.fake_runs import write_run, write_runs

from kd_lightning import reports
from kd_lightning.cli import main
from kd_lightning.commands.compare import Compare
from kd_lightning.commands.report_folder import WRITTEN
from kd_lightning.reports import workspace
from kd_lightning.reports.statistics import Test
from kd_lightning.reports.summary_plot import COLOR, summary, write_summary


def refusal(args: list[str], capfd: pytest.CaptureFixture) -> str:
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *args])
    assert stopped.value.code == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_it_writes_a_page_and_two_tables(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_runs(tmp_path / "runs", ("baseline", "kd", "sp"), predictions=True)
    (tmp_path / "runs/digits/sp-s2/a/results.json").unlink()
    out = tmp_path / "made/report"
    assert main(["compare", str(tmp_path / "runs"), "--out", str(out)]) == out / "report.html"
    assert {path.name for path in out.iterdir()} == {"report.html", "table.csv", "table.md"}
    printed = capfd.readouterr().out
    assert "digits: 8 runs" in printed
    assert "warning: seeds differ: 0, 1, 2 (baseline, kd); 0, 1 (sp)" in printed
    assert "unfinished, because it has no results.json" in printed
    table = pd.read_csv(out / "table.csv")
    assert table["group"].tolist() == ["baseline"] * 3 + ["kd"] * 3 + ["sp"] * 2
    assert {"seed", "select", "epoch", "commit", "test/acc", "cost/macs", "config/model.temperature"} <= {
        *table.columns
    }
    before = (out / "table.md").read_text()
    draw_nothing(monkeypatch)  # the first page has drawn all figures
    main(["compare", str(tmp_path / "runs"), "--out", str(out), "--baseline=kd", "--test=wilcoxon", "--images=false"])
    after = (out / "table.md").read_text()
    assert "Differences to kd" in after
    assert "Wilcoxon" in after
    assert before != after
    assert "No images are shown: the argument images is false" in (out / "report.html").read_text()


def test_runs_are_given_by_position(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_nothing(monkeypatch)
    write_runs(tmp_path / "a b", ("kd",), 1)
    write_runs(tmp_path / "c", ("sp",), 1)
    out = ["--out", str(tmp_path / "r"), "--images=false"]
    main(["compare", *out, str(tmp_path / "a b"), str(tmp_path / "c")])
    main(["compare", str(tmp_path / "a b"), str(tmp_path / "c"), *out])
    assert "digits: 2 runs" in capfd.readouterr().out


def test_choices_of_the_test_are_those_of_the_statistics() -> None:
    assert get_args(signature(Compare).parameters["test"].annotation) == get_args(Test)
    assert workspace.LINKS in WRITTEN


def test_refusals(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    runs = str(write_runs(tmp_path / "runs", ("baseline", "kd"), 1))
    assert "runs: none are given" in refusal([], capfd)
    assert "runs: no run can be compared" in refusal([str(tmp_path / "other")], capfd)
    assert f"out: {runs} contains files that do not belong to a report (digits)" in refusal(
        [runs, "--out", runs], capfd
    )
    file = tmp_path / "runs/digits/kd-s0/a/config.yaml"
    assert f"out: {file} is a file" in refusal([runs, "--out", str(file)], capfd)
    out = ["--out", str(tmp_path / "r")]
    assert "baseline: there is no group 'dk'; nearest: kd" in refusal([runs, *out, "--baseline=dk"], capfd)
    assert "nearest: test/acc" in refusal([runs, *out, "--metric=test/ac"], capfd)
    assert "test" in refusal([runs, *out, "--test=z"], capfd)
    assert "nearest: baseline" in refusal([runs, *out, "--basline=kd"], capfd)
    assert not (tmp_path / "r").exists()


def test_the_figure_has_the_format_of_its_name(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    runs = str(write_runs(tmp_path / "runs", ("baseline", "kd", "sp")))
    comparisons, _ = reports.compare(reports.read_runs([runs]))
    for ending, start in {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}.items():
        write_summary(comparisons, tmp_path / f"figures/summary.{ending}")
        assert (tmp_path / f"figures/summary.{ending}").read_bytes().startswith(start)
    out, svg = ["--out", str(tmp_path / "r")], tmp_path / "again.svg"
    main(["compare", runs, *out, "--images=false", "--figure", str(svg)])
    assert svg.read_bytes() == (tmp_path / "figures/summary.svg").read_bytes()  # the same runs give the same file
    (tmp_path / "folder.svg").mkdir()
    for figure, line in {
        "summary.gif": "does not end in .svg, .png, .pdf",
        "": "figure: . is a folder",
        str(tmp_path / "folder.svg"): "is a folder",
    }.items():
        assert line in refusal([runs, *out, "--figure", figure], capfd)


def test_the_figure_shows_mean_and_deviation(tmp_path: Path) -> None:
    runs = reports.read_runs([str(write_runs(tmp_path / "runs", ("baseline", "kd")))])
    (comparison,), _ = reports.compare(runs)
    (axes,) = summary(comparison).axes
    values = comparison.frame.groupby("group")["test/acc"]
    texts = {text.get_text() for text in axes.texts}
    for group in ("baseline", "kd"):
        assert f"{100 * values.mean()[group]:.1f} ± {100 * values.std()[group]:.1f}" in texts
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["baseline", "kd"]
    assert {container.lines[0].get_markerfacecolor() for container in axes.containers} == {"white", COLOR}


def test_a_figure_of_two_data_sets_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    write_runs(tmp_path / "runs", ("baseline",), 1)
    write_run(tmp_path / "runs/more", "baseline", data="cifar10")
    out = ["--out", str(tmp_path / "r"), "--figure", str(tmp_path / "x.png")]
    assert "figure: a figure shows one data set" in refusal([str(tmp_path / "runs"), *out], capfd)
    assert not (tmp_path / "x.png").exists()
    assert not (tmp_path / "r").exists()


def test_a_report_of_other_runs_is_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_nothing(monkeypatch)
    digits = write_runs(tmp_path / "runs", ("baseline", "kd"), 1) / "digits"
    out = tmp_path / "report"

    def compare(*names: str) -> str:
        capfd.readouterr()
        runs = [str(digits / f"{name}-s0") for name in names]
        return main(["compare", *runs, "--out", str(out), "--images=false"]).parent.name

    assert [compare("kd"), compare("kd")] == ["report", "report"]
    assert compare("kd", "baseline") == "report"  # all runs of the earlier report, and another run
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert compare("baseline") == "report-2"
    line = f"warning: {out} contains a report of other runs, so this report is written to {out}-2"
    assert line in capfd.readouterr().out
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (tmp_path / "report-3").mkdir()
    (tmp_path / "report-3/notes.txt").write_text("own")
    assert compare("kd") == "report-4"
    assert [compare("baseline"), compare("kd"), compare("kd", "baseline")] == ["report-2", "report-4", "report"]
    for path in (out / "table.csv", tmp_path / "report-2/table.csv"):
        path.write_text("not a report of compare")
    assert compare("kd", "baseline") == "report-4"  # a report whose runs are unknown is kept


def test_a_report_whose_run_was_repeated_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)
    args = ["compare", str(tmp_path / "runs"), "--out", str(tmp_path / "report"), "--images=false"]
    write_run(tmp_path / "runs/old", "kd", 0)
    main(args)
    later = write_run(tmp_path / "runs/new", "kd", 0, protocol__evaluated="2027-01-01T10:00:00") / "results.json"
    later.write_text(later.read_text().replace('"id": "a"', '"id": "b"'))
    assert main(args) == tmp_path / "report/report.html"
    assert pd.read_csv(tmp_path / "report/table.csv")["id"].tolist() == ["b"]
