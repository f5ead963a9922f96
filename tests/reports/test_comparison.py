"""Comparisons: baselines, data sets, warnings, tables, and how metrics are shown."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers.fake_runs import METHODS, config, write_run, write_runs

from kd_lightning.errors import ConfigError
from kd_lightning.reports import Comparison, compare, describe, read_runs
from kd_lightning.reports.axes import main_metric, ordered
from kd_lightning.reports.tables import markdown, mean_and_std, p_value, summary


def comparison(folder: Path, **kwargs: object) -> Comparison:
    comparisons, lines = compare(read_runs(folder), **kwargs)
    assert lines == []
    assert len(comparisons) == 1
    return comparisons[0]


def change(folder: Path, section: str, field: str, value: object) -> None:
    content = json.loads((folder / "results.json").read_text())
    content[section][field] = value
    (folder / "results.json").write_text(json.dumps(content))


def resettle(folder: Path, edit: Callable[[dict], object]) -> None:
    content = yaml.safe_load((folder / "config.yaml").read_text())
    edit(content)
    (folder / "config.yaml").write_text(yaml.safe_dump(content))


def test_the_baseline_is_supervised_and_comes_first(tmp_path: Path) -> None:
    write_runs(tmp_path, ("a-kd", "sp", "kd", "baseline"))
    assert read_runs(tmp_path).groups[0] == "a-kd"
    found = comparison(tmp_path)
    assert found.baseline == "baseline"
    assert found.runs.groups[0] == "baseline"
    assert found.metric == "test/acc"
    assert found.warnings == []
    assert found.best(describe("test/acc")) == {"sp"}
    assert found.best(describe("cost/parameters")) == set()
    assert comparison(tmp_path, baseline="kd", metric="test/nll").baseline == "kd"
    with pytest.raises(ConfigError, match="baseline: there is no group 'spp'; nearest: sp"):
        comparison(tmp_path, baseline="spp")
    with pytest.raises(ConfigError, match="metric: no run has 'test/ac'; nearest: test/acc"):
        comparison(tmp_path, metric="test/ac")


def test_it_is_about_what_every_group_has(tmp_path: Path) -> None:
    write_runs(tmp_path, ("baseline", "kd"), 2)
    change(tmp_path / "digits/kd-s0/a", "metrics", "test/acc", None)
    assert comparison(tmp_path).metric == "test/acc"
    change(tmp_path / "digits/kd-s1/a", "metrics", "test/acc", None)
    assert comparison(tmp_path).metric == "test/linear"
    assert comparison(tmp_path, metric="test/acc").metric == "test/acc"


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"runs: no run can be compared: .*does not exist"):
        compare(read_runs(tmp_path / "none"))


def test_data_sets_are_compared_apart(tmp_path: Path) -> None:
    write_runs(tmp_path / "a", ("baseline", "kd"), 2)
    for seed in range(2):
        write_run(tmp_path / "b", "kd", seed, data="letters")
    comparisons, lines = compare(read_runs(tmp_path), baseline="baseline")
    assert [(one.data, one.baseline, len(one.runs)) for one in comparisons] == [
        ("digits", "baseline", 4),
        ("letters", "kd", 2),
    ]
    assert lines == [
        "runs of 2 data sets, compared separately: digits and letters",
        "letters: there is no group baseline; kd is the baseline instead",
    ]


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "counts": (lambda f: change(f, "data", "train", 900), "training images differ: 1293 (baseline); 900 (kd)"),
    "epochs": (lambda f: change(f, "protocol", "max_epochs", 7), "epochs differ: 6 (baseline); 7 (kd)"),
    "select": (
        lambda f: change(f, "protocol", "select", "last"),
        "selected checkpoint differs: best (baseline); last (kd)",
    ),
    "commit": (lambda f: change(f, "code", "commit", "abc"), "commit differs: 3ceaa6b (baseline); abc (kd)"),
    "version": (lambda f: change(f, "code", "version", "0.2"), "code version differs: 0.1.0 (baseline); 0.2 (kd)"),
    "tree": (lambda f: change(f, "code", "changed", True), "uncommitted changes: kd-s0, kd-s1"),
    "student": (lambda f: change(f, "run", "student", "x"), "student differs: cifar_resnet8 (baseline); x (kd)"),
    "part": (lambda f: change(f, "protocol", "test_batches", 2), "evaluated on a part of the test images"),
    "axis": (lambda f: change(f, "metrics", "test/knn", None), "representation is not evaluated for kd: test/knn"),
    "batch": (
        lambda f: resettle(f, lambda c: c["data"]["init_args"].update(batch_size=128)),
        "data.batch_size differs: 64 (baseline); 128 (kd)",
    ),
    "augmentation": (
        lambda f: resettle(f, lambda c: c["data"]["init_args"].update(augmentations="deit")),
        "data.augmentations differ: default (baseline); deit (kd)",
    ),
    "resumed": (
        lambda f: resettle(f, lambda c: c.update(ckpt_path="x/last.ckpt")),
        "started from another run's checkpoint: kd-s0, kd-s1",
    ),
    "config": (
        lambda f: (f / "config.yaml").unlink(),
        "config.yaml is missing, so the settings are unknown: kd-s0, kd-s1",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_not_comparable_is_said(what: str, tmp_path: Path) -> None:
    write_runs(tmp_path, ("baseline", "kd"), 2)
    edit, said = CHANGES[what]
    assert comparison(tmp_path).warnings == []
    for seed in range(2):
        edit(tmp_path / f"digits/kd-s{seed}/a")
    warnings = comparison(tmp_path).warnings
    assert len(warnings) == 1
    assert said in warnings[0]


def test_other_teachers_are_said_but_none_is_not_missed(tmp_path: Path) -> None:
    write_runs(tmp_path, ("baseline", "kd", "sp"), 2)
    assert comparison(tmp_path).warnings == []  # the baseline has no teacher, and no faithfulness
    change(tmp_path / "digits/kd-s1/a", "run", "teacher_fingerprint", "beef")
    assert comparison(tmp_path).warnings == ["teacher's weights differ: f00d (kd-s0, sp-s0, sp-s1); beef (kd-s1)"]
    for seed, file in enumerate(("/a/t.pt", "/b/u.pt")):
        for name in ("kd", "sp"):
            folder = tmp_path / f"digits/{name}-s{seed}/a"
            change(folder, "run", "teacher_fingerprint", None)
            resettle(folder, lambda c, file=file: c["model"]["init_args"]["teacher"].update(checkpoint=file))
    assert any("teacher's file differs: t.pt (" in line for line in comparison(tmp_path).warnings)


def test_what_a_baseline_without_a_teacher_lacks_is_said(tmp_path: Path) -> None:
    write_runs(tmp_path, ("baseline", "kd"), 2)
    for name in ("test/knn", "test/corrupted_relative"):  # the second is relative to a teacher
        change(tmp_path / "digits/baseline-s0/a", "metrics", name, None)
    assert comparison(tmp_path).warnings == ["representation is not evaluated for baseline-s0: test/knn"]


def test_seeds_are_said(tmp_path: Path) -> None:
    write_runs(tmp_path, ("baseline",), 3)
    write_runs(tmp_path, ("kd",), 1)
    warnings = comparison(tmp_path).warnings
    assert "seeds differ: 0, 1, 2 (baseline); 0 (kd); only runs with common seeds are compared" in warnings
    assert "fewer than 2 seeds in common with baseline, so there is no test: kd" in warnings
    words = summary(comparison(tmp_path))
    assert words.loc["kd", "note"] == "no test: 1 common seed"
    assert words.loc["kd", "p"] == ""
    write_run(tmp_path, "kd", 1)
    warnings = comparison(tmp_path, test="wilcoxon").warnings
    assert any("Wilcoxon's test cannot give p below 0.05 with fewer than 6 pairs" in line for line in warnings)


def test_settings_that_differ(tmp_path: Path) -> None:
    write_runs(tmp_path, ("baseline", "kd"), 2)
    assert comparison(tmp_path).settings() == {
        "model": {"baseline": "Supervised", "kd": "KD"},
        "model.teacher.name": {"baseline": None, "kd": "cifar_resnet20.digits"},
        "model.teacher.pretrained": {"baseline": None, "kd": True},
        "model.check_teacher": {"baseline": None, "kd": True},
        "model.temperature": {"baseline": None, "kd": 4.0},
    }
    assert config("KD", "kd", 0)["model"]["init_args"]["temperature"] == 4.0


def test_tables_hold_what_was_worked_out(tmp_path: Path) -> None:
    write_runs(tmp_path)
    found = comparison(tmp_path)
    row = found.statistics["test/acc"].loc["sp"]
    words = summary(found).loc["sp"]
    accuracy = describe("test/acc")
    assert words[accuracy.heading] == f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f} %"
    expected = f"{100 * row['difference']:+.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    assert words["difference"] == expected
    assert summary(found).loc["cifar_resnet20.digits, teacher", accuracy.heading] == "97.0 %"
    text = markdown([found], ["a <b>line</b> | of [x](http://y)"])
    assert f"| sp | {words[accuracy.heading]} | 3 | {expected} |" in text
    assert r"- Warning: a &lt;b&gt;line&lt;/b&gt; \| of [x]\(http://y)" in text
    assert {"### calibration", "### cost", "### out-of-distribution"} <= {*text.splitlines()}
    assert "nan" not in text.lower().replace("test/ood_knn_", "")
    assert len(METHODS) == text.split("### calibration")[0].count("%; ") // 3 + 1  # the baseline has no difference


def test_values_for_people() -> None:
    accuracy, parameters, loss = describe("test/acc"), describe("cost/parameters"), describe("test/nll")
    assert accuracy.show(0.7649) == "76.5 %"
    assert accuracy.show(0.012, signed=True, bare=True) == "+1.2"
    assert accuracy.show(-0.0001, signed=True, bare=True) == "0.0"
    assert accuracy.show(float("nan")) == "-"
    assert parameters.show(272_474) == "0.272 M"
    assert loss.show(0.01234) == "0.0123"
    assert loss.show(0) == "0"
    assert [p_value(p) for p in (0.0001, 0.0123, 0.1, 1, float("nan"))] == ["<0.001", "0.012", "0.10", "1.00", ""]
    row = {"mean": 0.5, "std": float("nan")}
    assert mean_and_std(accuracy, row) == "50.0 %"
    assert mean_and_std(parameters, {"mean": 1e6, "std": 0.0}) == "1.00 M"
    assert mean_and_std(accuracy, {"mean": 0.5, "std": 1e-4}) == "50.0 ± 0.0 %"


def test_metrics_by_name() -> None:
    assert describe("test/ood_knn_tiny-imagenet").title == "AUROC against tiny-imagenet, by knn"
    assert describe("test/ood_knn_tiny-imagenet").better == "higher"
    assert describe("test/ood_knn_svhn_fpr95")[2:5] == ("out-of-distribution", "%", "lower")
    assert describe("test/membership_loss_auroc")[2:] == ("privacy", "%", "lower", True)
    assert describe("test/membership_loss_tpr_at_1_fpr").title == "members found at 1 % FPR, by loss"
    assert describe("test/few_shot_5").title == "few-shot classifier, 5 images per class"
    assert describe("test/knn_teacher").title == "teacher's 10 nearest neighbours"
    assert describe("test/agreement_teacher_errs").axis == "faithfulness"
    assert describe("cost/latency_ms_16").heading == "latency, batch 16, ms ↓"
    assert describe("test/wonder") == ("test/wonder", "test/wonder", "other", "", None, False)
    names = ["cost/macs", "test/knn_teacher", "zz", "test/neighbors_30", "test/neighbors_5", "test/acc", "teacher/acc"]
    assert [metric.name for metric in ordered(names)] == [
        "test/acc",
        "test/neighbors_5",
        "test/neighbors_30",
        "cost/macs",
        "zz",
    ]
    assert main_metric(["test/knn", "val/acc"]) == "test/knn"
    assert main_metric(["cost/macs"]) == "cost/macs"
    assert main_metric([]) is None


def test_evaluators_with_other_settings_are_reported(tmp_path: Path) -> None:
    for name, severities in (("baseline", [1, 3]), ("kd", [5])):
        for seed in (0, 1):
            evaluators = {"Corruptions": {"severities": severities, "names": ["fog"]}, "KNN": {"ks": [10]}}
            write_run(tmp_path, name, seed, evaluators=evaluators)
    (said,) = comparison(tmp_path).warnings
    assert said.startswith("settings of Corruptions differ: ")
    assert '"severities": [1, 3]} (baseline)' in said
    assert '"severities": [5]} (kd)' in said


def test_a_seed_of_two_teachers_is_two_groups(tmp_path: Path) -> None:
    """All checkpoints of this project have one of three names: the file alone does not tell a teacher."""
    write_run(tmp_path, "baseline", 0)
    first = write_run(tmp_path, "kd", 0)
    other = write_run(tmp_path / "other", "kd", 0)
    content = json.loads((other / "results.json").read_text())
    content["run"]["teacher_fingerprint"] = "beef"
    (other / "results.json").write_text(json.dumps(content))
    found = read_runs(tmp_path)
    assert len(found) == 3
    assert {run.folder for run in found} >= {first, other}
    assert len(found.groups) == 3


def write_students(folder: Path, students: dict[str, tuple[str, str]]) -> None:
    """Write runs of one seed, given as method and student network by name; they are evaluated in this order."""
    for day, (name, (method, student)) in enumerate(students.items(), 1):
        run = write_run(folder, name, 0)
        for section, field, value in (
            ("run", "method", method),
            ("run", "student", student),
            ("protocol", "evaluated", f"2026-02-{day:02}T10:00:00"),
        ):
            change(run, section, field, value)
        resettle(run, lambda c, method=method: c["model"].update(class_path=f"kd_lightning.methods.{method}"))
        resettle(run, lambda c, student=student: c["model"]["init_args"]["student"].update(name=student))


SCRATCH, TEACHER, DISTILLED = ("Supervised", "resnet8"), ("Supervised", "resnet50"), ("KD", "resnet8")


def test_a_fine_tuned_teacher_is_not_the_baseline_of_its_students(tmp_path: Path) -> None:
    write_students(tmp_path, {"a-teacher": TEACHER, "scratch": SCRATCH, "distilled": DISTILLED})
    assert comparison(tmp_path).baseline == "scratch"


def test_an_added_run_does_not_change_the_baseline_and_the_choice_is_said(tmp_path: Path) -> None:
    runs = {"scratch": SCRATCH, "distilled": DISTILLED}
    write_students(tmp_path / "before", runs)
    assert comparison(tmp_path / "before").baseline == "scratch"
    write_students(tmp_path / "after", {**runs, "a frozen": SCRATCH, "b-teacher": TEACHER})
    (found,), (line,) = compare(read_runs(tmp_path / "after"))
    assert found.baseline == "scratch"
    assert line == "digits: 2 groups of Supervised; the baseline is scratch; choose another with --baseline='a frozen'"
    assert compare(read_runs(tmp_path / "after"), baseline="a frozen")[1] == []


def test_data_sets_of_one_name_are_named_by_their_classes(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "kd", 0, data__classes=8)
    write_run(tmp_path / "b", "sp", 0, data__classes=0)
    assert compare(read_runs(tmp_path))[1] == [
        "runs of 2 data sets, compared separately: digits (8 classes) and digits (no labels)"
    ]


def test_neighbours_shared_by_chance_are_said(tmp_path: Path) -> None:
    for name in ("coss", "seed"):
        run = write_run(tmp_path, name, 0)
        change(run, "metrics", "val/neighbors", 0.925)
        change(run, "data", "val", 12)
    line = "val/neighbors: with 12 images, embeddings that are unrelated also reach about 0.91 (all runs)"
    assert line in comparison(tmp_path).warnings
    for folder in tmp_path.glob("digits/*/a"):
        change(folder, "data", "val", 144)
    assert not [line for line in comparison(tmp_path).warnings if "unrelated" in line]
