"""Reading finished runs: what is found, how they are grouped, and bad folders, each in one line."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from helpers.fake_runs import config, write_run, write_runs

from kd_lightning.reports import Runs, frame, read_runs
from kd_lightning.reports.config import comparable_settings, differing_settings, flatten_config, read_config
from kd_lightning.reports.groups import without_seed


def one_problem(runs: Runs) -> str:
    assert len(runs.problems) == 1, runs.problems
    assert "\n" not in runs.problems[0]
    return runs.problems[0]


def test_runs_are_found_and_grouped(tmp_path: Path) -> None:
    write_runs(tmp_path, ("baseline", "kd"))
    for wandb in (tmp_path / "digits/kd-s0/a/wandb/run", tmp_path / "wandb/run"):
        wandb.mkdir(parents=True)
        (wandb / "config.yaml").write_text("a: 1\nmodel: x\n")
    runs = read_runs(tmp_path)
    assert runs.problems == []
    assert runs.groups == ["baseline", "kd"]
    assert [(run.group, run.seed) for run in runs] == [(g, s) for g in ("baseline", "kd") for s in range(3)]
    table = frame(runs, config=True)
    assert table["seed"].tolist() == [0, 1, 2] * 2
    first = json.loads((tmp_path / "digits/baseline-s0/a/results.json").read_text())["metrics"]
    assert table.loc[0, "test/acc"] == first["test/acc"]
    assert table.loc[3, "config/model.temperature"] == 4.0
    assert runs.of("kd")[0].history["val/acc"].notna().sum() == 6


def test_paths_may_be_files_patterns_and_folders_within_a_run(tmp_path: Path) -> None:
    write_runs(tmp_path, ("kd",), 2)
    run = tmp_path / "digits/kd-s0/a"
    (run / "wandb").mkdir()
    runs = read_runs([run / "results.json", run / "metrics.csv", run / "wandb"])
    assert (len(runs), len(runs.problems)) == (1, 1)
    assert "more than once are read only once: kd-s0/a" in runs.problems[0]
    assert len(read_runs(str(tmp_path / "**" / "a"))) == 2
    assert len(read_runs(str(tmp_path / "*" / "kd-s1"))) == 1
    assert "are read only once: kd-s0/a, kd-s1/a" in one_problem(read_runs([run.parent.parent, tmp_path]))


def test_a_label_is_the_name_without_the_seed() -> None:
    names = {"kd-s0": "kd", "kd_seed0": "kd", "s0-kd": "kd", "kd-s0-long": "kd-long", "kd-s01": "kd-s01", "s0": "s0"}
    assert {name: without_seed(name, 0) for name in names} == names
    assert without_seed("kd-s12", 12) == "kd"
    assert without_seed("__x__-s0", 0) == "__x__"


def test_settings_tell_groups_apart_and_paths_do_not(tmp_path: Path) -> None:
    write_runs(tmp_path, ("kd",), 2)
    for seed, temperature, folder in ((2, 8.0, "/a"), (3, 8.0, "${HOME}/b"), (4, 4.0, "/c")):
        there = write_run(tmp_path, "kd", seed)
        settings = config("KD", "kd", seed)
        settings["model"]["init_args"]["temperature"] = temperature
        settings["data"]["init_args"]["path"] = f"{folder}/images.tar"
        (there / "config.yaml").write_text(yaml.safe_dump(settings))
    runs = read_runs(tmp_path)
    sizes = {group: len(runs.of(group)) for group in runs.groups}
    assert sorted(sizes.values()) == [1, 2, 2]
    together = next(group for group in runs.groups if {run.seed for run in runs.of(group)} == {2, 3})
    assert "temperature 8.0" in together
    assert len(runs.groups) == 3


def test_one_config_under_two_names_is_two_groups_where_seeds_are_shared(tmp_path: Path) -> None:
    write_runs(tmp_path, ("kd",), 2)
    for seed in range(2):
        write_run(tmp_path, "kd-again", seed)
    assert read_runs(tmp_path).groups == ["kd-again", "kd"]


def test_of_a_seed_that_was_run_again_the_later_one_is_compared(tmp_path: Path) -> None:
    write_runs(tmp_path, ("kd",), 2)
    later = tmp_path / "digits/kd-s0/0"  # before the other by its name
    shutil.copytree(tmp_path / "digits/kd-s0/a", later)
    content = json.loads((later / "results.json").read_text())
    content["protocol"]["evaluated"] = "2027-01-01T10:00:00"
    (later / "results.json").write_text(json.dumps(content))
    runs = read_runs(tmp_path)
    assert [run.folder.name for run in runs] == ["0", "a"]
    assert "kd: a seed was used twice" in one_problem(runs)


def test_without_a_config_runs_are_grouped_by_name(tmp_path: Path) -> None:
    write_runs(tmp_path, ("kd", "sp"), 2)
    for path in tmp_path.rglob("config.yaml"):
        path.unlink()
    runs = read_runs(tmp_path)
    assert [len(runs.of(group)) for group in ("kd", "sp")] == [2, 2]
    assert len(runs.problems) == 4
    assert all("config.yaml is missing" in line for line in runs.problems)


def test_unfinished_runs_say_how_to_finish(tmp_path: Path) -> None:
    write_runs(tmp_path, ("kd",), 3)
    folders = [tmp_path / f"digits/kd-s{seed}/a" for seed in range(3)]
    for folder in folders[:2]:
        (folder / "results.json").unlink()
    (folders[1] / "last.ckpt").touch()
    trained = write_run(tmp_path, "kd", 3)
    (trained / "results.json").unlink()
    for name in ("last.ckpt", "best.ckpt", "student.safetensors"):
        (trained / name).touch()
    shutil.copytree(folders[2], folders[2].parent / "earlier")
    (folders[2].parent / "earlier/results.json").unlink()
    runs = read_runs(tmp_path)
    assert len(runs) == 1
    first, second, fourth, third = runs.problems
    assert f"python -m kd_lightning test {trained} evaluates it" in fourth
    assert "because it has no results.json; it has not finished: python -m kd_lightning fit --config " in first
    assert first.endswith(f"{folders[0]}/config.yaml --run.output_dir {tmp_path} --run.id a --ckpt_path last runs it")
    assert second.endswith("--ckpt_path last resumes it")
    assert third == "unfinished runs are skipped if another run of the same name is finished: kd-s2/earlier"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "results.json is not JSON, or truncated"),
        ("[" * 100_000, "results.json is not JSON, or truncated"),
        ("[1, 2]", "is not a JSON object, but a list of 2"),
        ('{"schema": 1}', "has schema 1, but this version of kd_lightning reads 3; an older version"),
        ('{"schema": "1"}', "has schema '1'"),
        ("{}", "has no schema"),
        ('{"schema": 3, "metrics": {"test/acc": ' + "9" * 5000 + "}}", "results.json is not JSON, or truncated"),
    ],
)
def test_unreadable_results_are_one_line(content: str, said: str, tmp_path: Path) -> None:
    write_runs(tmp_path, ("kd",), 2)
    (tmp_path / "digits/kd-s0/a/results.json").write_text(content)
    runs = read_runs(tmp_path)
    assert [run.seed for run in runs] == [1]
    assert said in one_problem(runs)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("metrics__test/acc", "0.9", 'metrics.test/acc is "0.9", not a number'),
        ("metrics__test/acc", [[0.9]], "metrics.test/acc is a list of 1, not a number"),
        ("metrics__test/acc", True, "metrics.test/acc is True, not a number"),
        ("metrics__test/acc", 1e300, "metrics.test/acc is 1e+300, not a number"),
        ("metrics__test/acc", float("inf"), "metrics.test/acc is inf, not a number"),
        ("metrics__test/acc", 10**400, "metrics.test/acc is a number above 1e15, not a number"),
        ("metrics", [1], "metrics is a list of 1, not an object"),
        ("run__method", {"a": 1}, "run.method is an object of 1, not a string"),
        ("run__seed", "0", 'run.seed is "0", not a whole number'),
        ("protocol__epoch", 1.5, "protocol.epoch is 1.5, not a whole number"),
        ("data__class_names", [1, 2], "data.class_names is a list of 2, not a list of strings"),
        ("code__changed", "no", 'code.changed is "no", not true or false'),
        ("seconds", "long", 'seconds is "long", not a number'),
        ("details__per_class", {"accuracy": ["a"]}, "details.per_class does not have the format"),
        ("details__per_class", {"accuracy": [0.5], "count": [1, 2]}, "details.per_class does not have the format"),
        (
            "details__calibration",
            {"confidence": [1], "accuracy": [1], "count": [-1]},
            "details.calibration does not have the format",
        ),
        (
            "details__ood",
            {"x": {"edges": [0, 1], "known": [1, 2], "unknown": [1, 2]}},
            "details.ood does not have the format",
        ),
        (
            "details__ood",
            {"x": {"edges": [1, 0], "known": [1], "unknown": [1]}},
            "details.ood does not have the format",
        ),
        (
            "details__corruptions",
            {"severities": [1], "accuracy": {"fog": [1, [2]]}},
            "details.corruptions does not have the format",
        ),
        ("details__confusion", [[1, 2], [3]], "details.confusion does not have the format"),
        ("details", "none", 'details is "none", not an object'),
    ],
)
def test_wrong_types_are_left_out_and_named(field: str, value: object, said: str, tmp_path: Path) -> None:
    write_run(tmp_path, "kd", 0, **{field: value})
    runs = read_runs(tmp_path)
    assert len(runs) == 1
    assert any(said in line for line in runs.problems), runs.problems
    assert len(runs.problems) <= 2  # a seed that is wrong is one that is missing


def test_null_is_no_problem(tmp_path: Path) -> None:
    write_run(tmp_path, "kd", 0, **{"metrics__test/acc": None, "run__teacher": None, "details": None})
    runs = read_runs(tmp_path)
    assert runs.problems == []
    assert "test/acc" not in runs.runs[0].metrics


@pytest.mark.parametrize("text", ["a: [", "&a [*a, *a]", "[1]", "a: " + "[" * 5000 + "]" * 5000])
def test_configs_that_are_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    content, reason = read_config(path)
    assert content == {}
    assert "config.yaml cannot be read" in reason


def test_a_config_of_references_is_refused_before_it_grows(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    assert "more than 20,000 values" in read_config(tmp_path / "config.yaml")[1]


def test_settings_are_flat_and_their_own_left_out() -> None:
    given = config("KD", "kd", 3)
    given["data"]["init_args"]["augmentations"] = [
        {"class_path": "kd_lightning.data.RandomCrop", "init_args": {"padding": 4, "fill": None}}
    ]
    given["model"]["init_args"]["teacher"]["checkpoint"] = "${SHARED}/weights/t.safetensors"
    assert flatten_config(given)["model"] == "KD"
    assert flatten_config(given)["data.augmentations"] == "[RandomCrop(padding=4)]"
    kept = comparable_settings(given)
    assert kept["model.teacher.checkpoint"] == "t.safetensors"
    assert not {key for key in kept if key.startswith(("run", "seed", "ckpt"))}
    assert "protocol.select" not in kept


def test_long_lists_that_differ_late_are_told_apart() -> None:
    one, other = config("Combined", "combined", 0), config("Combined", "combined", 0)
    for given, last in ((one, 3.0), (other, 4.0)):
        weights = [1.0] * 40 + [last]
        given["model"]["init_args"]["parts"] = [
            {"class_path": "kd_lightning.methods.SP", "init_args": {"sp_weight": weight}} for weight in weights
        ]
    settings = {name: comparable_settings(given) for name, given in (("one", one), ("other", other))}
    differ = differing_settings(settings)
    assert [*differ] == ["model.parts"]
    first, second = differ["model.parts"].values()
    assert first[:380] == second[:380]
    assert max(len(first), len(second)) <= 400
    assert comparable_settings(one) == settings["one"]


def test_broken_histories_and_places_without_runs(tmp_path: Path) -> None:
    there = write_run(tmp_path, "kd", 0)
    (there / "metrics.csv").write_text('epoch,val/acc\n0,"high"\n1,0.5\n')
    runs = read_runs(tmp_path)
    assert runs.runs[0].history["val/acc"].dropna().tolist() == [0.5]
    (there / "metrics.csv").write_bytes(b"a,b\n1,2\n1,2,3,4\n")
    assert "metrics.csv cannot be read" in one_problem(read_runs(tmp_path))
    (there / "metrics.csv").unlink()
    assert "metrics.csv is missing" in one_problem(read_runs(tmp_path))
    (tmp_path / "empty").mkdir()
    assert "it contains no run" in one_problem(read_runs(tmp_path / "empty"))
    assert "it does not exist; nearest: empty" in one_problem(read_runs(tmp_path / "emtpy"))
