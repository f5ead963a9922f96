"""repeat --sweep: which combinations are run, what their runs are called, and what is refused."""

import json
import math
from pathlib import Path

import pytest
import yaml
from helpers.fake_fit import began, install, write

from kd_lightning.cli import main
from kd_lightning.cli.resolve import BuildingCLI, refusal, resolve
from kd_lightning.commands.repeat import Repeat
from kd_lightning.commands.repeat.sweep import combinations, in_words, with_settings
from kd_lightning.errors import ConfigError, RunError

ROOT = Path(__file__).parents[2]
SP = str(ROOT / "configs/digits/sp.yaml")
GRID = ["model.temperature=[1, 2.5]", "trainer.max_epochs=[3, 4]"]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)


@pytest.mark.usefixtures("fake")
def test_a_grid_is_run_named_and_not_repeated(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    config = write(tmp_path, "a")
    rows = Repeat(configs=[config], seeds=2, sweep=GRID)([])
    names = [f"a-temperature={t},max_epochs={e}-s{s}" for s in (0, 1) for t in ("1", "2.5") for e in (3, 4)]
    assert began(tmp_path) == names
    assert [row["state"] for row in rows] == ["ran"] * 8
    for name, row in zip(names, rows, strict=True):
        content = yaml.safe_load((Path(row["folder"]) / "config.yaml").read_text())
        assert Path(row["folder"]).parent.name == name
        settings = (
            f"temperature={content['model']['init_args']['temperature']},max_epochs={content['trainer']['max_epochs']}"
        )
        assert settings in name
    printed = capfd.readouterr().out
    for number, (name, row) in enumerate(zip(names, rows, strict=True), 1):
        assert f"{name}: {row['result']}, trained for 1.5 min ({number} of 8)" in printed
    again = Repeat(configs=[config], seeds=2, sweep=["model.temperature=[2.5, 5]", GRID[1]])([])
    assert [row["state"] for row in again] == ["done before", "done before", "ran", "ran"] * 2
    assert f"{names[2]}: done before, 50.00%, trained for 1.5 min (1 of 8)" in capfd.readouterr().out
    (alone,) = Repeat(configs=[config], seeds=1)([])  # the run without the sweep is another one
    assert alone["state"] == "ran"


@pytest.mark.usefixtures("fake")
def test_a_failed_run_is_reported_when_it_ends(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    config = write(tmp_path, "a", fake={"fails": [0]})
    with pytest.raises(RunError, match=r"2 of 4 runs failed: .*temperature=1, seed 0: the loss is nan"):
        Repeat(configs=[config], seeds=2, sweep=GRID[:1])([])
    lines = [line for line in capfd.readouterr().out.splitlines() if " of 4)" in line]
    assert lines[0].startswith("a-temperature=1-s0: failed: the loss is nan; the log is ")
    assert lines[0].endswith(".log (1 of 4)")
    assert lines[2:] == [
        "a-temperature=1-s1: 51.00%, trained for 1.5 min (3 of 4)",
        "a-temperature=2.5-s1: 51.00%, trained for 1.5 min (4 of 4)",
    ]


def test_a_larger_sample_begins_with_the_smaller_one() -> None:
    sweep = ["model.lr={min: 1e-4, max: 1, scale: log}", "model.layers={min: 1, max: 3}", "model=[KD, SP]"]
    small, large = combinations(sweep, 5, 3), combinations(sweep, 40, 3)
    assert large[:5] == small
    assert small != combinations(sweep, 5, 4)
    assert len({json.dumps(one) for one in large}) == 40
    assert all(1e-4 <= one["model.lr"] <= 1 and type(one["model.layers"]) is int for one in large)
    assert {one["model.layers"] for one in large} == {1, 2, 3}
    below = sum(one["model.lr"] < 1e-2 for one in combinations(sweep[:1], 400, 0)) / 400
    assert below == pytest.approx(0.5, abs=0.1)  # half of the logarithmic axis
    assert all(math.isclose(one["model.lr"], float(f"{one['model.lr']:.3g}")) for one in large)
    assert sorted(map(json.dumps, combinations(GRID, 4, 0))) == sorted(map(json.dumps, combinations(GRID, None, 0)))


def test_names_are_short_unique_and_valid() -> None:
    assert in_words({"model.optimizer.lr": 0.05, "model.sp_weight": 300}) == "lr=0.05,sp_weight=300"
    assert in_words({"model.student.size": 8, "model.teacher.size": None}) == "student.size=8,teacher.size=null"
    texts = [in_words({"x": value}) for value in ("a/b", "a b", [1, 2], [1, 3], {"a": "/"}, 1e-7, 12345.678901, True)]
    assert len({*texts}) == len(texts)
    assert not any("/" in text or " " in text for text in texts)
    long = [in_words({f"field_number_{n}": n + more for n in range(30)}) for more in (0, 1)]
    assert long[0] != long[1]
    assert max(map(len, long)) <= 100


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        (
            {"sweep": ["model.lr"]},
            "sweep: 'model.lr' is not FIELD=VALUES; an example is model.optimizer.lr='[0.05, 0.1]'",
        ),
        ({"sweep": ["model.lr=3"]}, "sweep: model.lr: '3' is not a list of values; write [3]"),
        ({"sweep": ["model.lr=[]"]}, "sweep: model.lr: '[]' is not a list of values"),
        ({"sweep": ["model.lr=[1"]}, "sweep: model.lr: '[1' is not valid YAML; give a list such as [1, 2]"),
        ({"sweep": ["model.lr=[1, 2, 1]"]}, "sweep: model.lr: 1 is given twice"),
        ({"sweep": ["a=[1]", "a=[2]"]}, "sweep: a is given twice"),
        ({"sweep": ["seed_everything=[1]"]}, "sweep: seed_everything cannot be varied; use --seeds"),
        ({"sweep": ["run.name=[1]"]}, "sweep: run.name cannot be varied; repeat names the runs by their settings"),
        ({"sweep": ["a={min: 1, max: 2}"]}, "sweep: a is a range; give the number of random combinations as --sample"),
        ({"sweep": ["a={min: 2, max: 1}"], "sample": 1}, "sweep: a: min 2 is not below max 1"),
        ({"sweep": ["a={min: x, max: 1}"], "sample": 1}, "sweep: a: min of a range is x, not a number"),
        ({"sweep": ["a={min: 0, max: 1, scale: log}"], "sample": 1}, "sweep: a: min 0 is not above 0"),
        ({"sweep": ["a={min: 0, max: 1, scale: lg}"], "sample": 1}, "'lg' is not a valid scale; nearest: log"),
        ({"sweep": ["a={mn: 0, max: 1}"], "sample": 1}, "sweep: a: mn is not a field of a range; nearest: min"),
        ({"sweep": GRID, "sample": 5}, "sample: 5 is more than the 4 combinations of --sweep"),
        ({"sweep": GRID, "sample": 0}, "sample: 0 is not above 0"),
        ({"sample": 2}, "sample: there is nothing to sample; give fields and their values as --sweep"),
        ({"sweep": ["a={min: 1, max: 3}"], "sample": 4}, "sample: only 3 of 4 different combinations were found"),
    ],
)
def test_refusals(kwargs: dict, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Repeat(configs=[SP], **kwargs)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("fake")
def test_a_setting_without_effect_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    config = write(tmp_path, "a")
    with pytest.raises(ConfigError, match=r"sweep: temperature=1 and temperature=2.5 give the same run"):
        Repeat(configs=[config], seeds=1, sweep=GRID[:1])(["--model.temperature=7"])
    with pytest.raises(ConfigError, match=r"sweep.model.lr is not a field; write --sweep model.lr='\[...\]'"):
        Repeat(configs=[config], seeds=1)(["--sweep.model.lr=[1]"])
    rows = main(["repeat", "--configs", config, "--seeds=1", "--sweep", *GRID, "--sample", "3", "--dry_run"])
    assert [row["state"] for row in rows] == ["would run"] * 3
    assert not (tmp_path / "runs").exists()


def test_the_real_fit_checks_fields_and_values() -> None:
    good = resolve(["--config", SP, "--model.sp_weight=300"])
    assert yaml.safe_load(good["config"])["model"]["init_args"]["sp_weight"] == 300
    assert good["notices"] == []
    assert resolve(["--config", SP, "--model=RKD", "--model.sp_weight=3"])["error"].startswith(
        "model.sp_weight is not an argument of RKD"
    )
    notice = resolve(["--config", SP, "--model.sp_weight=3", "--model=RKD"])["notices"]
    assert notice == ["settings of SP are dropped, because RKD replaces it: sp_weight=3.0"]
    wrong = resolve(["--config", SP, "--model.sp_wait=300"])
    assert wrong == {"error": "model.sp_wait is not an argument of SP; nearest: sp_weight, kd_weight, ce_weight"}
    assert resolve(["--config", SP, "--model.sp_weight=x"]) == {"error": "model.sp_weight: x is not float"}


@pytest.mark.usefixtures("fake")
def test_a_combination_that_cannot_be_built_is_refused_before_the_first_run(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    config, sweep = write(tmp_path, "a"), ["model.temperature=[1, 2.5, 99]"]
    words = f"temperature: it is too high ({config}, temperature=99)"
    with pytest.raises(ConfigError) as raised:
        Repeat(configs=[config], seeds=2, sweep=sweep)([])
    assert str(raised.value) == words
    assert not (tmp_path / "runs").exists()
    rows = Repeat(configs=[config], seeds=2, sweep=sweep, dry_run=True)([])
    assert [row["state"] for row in rows] == ["would run"] * 6
    assert capfd.readouterr().out.count(f"warning: fit would end with an error: {words}\n") == 1


@pytest.mark.usefixtures("fake")
def test_a_finished_run_is_not_checked_again(tmp_path: Path) -> None:
    alone = write(tmp_path, "a", model={"class_path": "kd_lightning.methods.KD", "init_args": {"temperature": 99}})
    Repeat(configs=[alone], seeds=1)([])
    rows = Repeat(configs=[alone, write(tmp_path, "b")], seeds=1)([])
    assert [row["state"] for row in rows] == ["done before", "ran"]
    with pytest.raises(ConfigError, match=r"^temperature: it is too high \(.*a.yaml\)$"):
        Repeat(configs=[alone, write(tmp_path, "b")], seeds=2)([])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.sp_weight=-3"], "sp_weight: -3.0 is not a valid weight; give 0 or a positive finite number"),
        (["--model.optimizer.lr=-1"], "model.optimizer: SGD cannot be built: Invalid learning rate: -1.0"),
        (["--model.lr_scheduler.warmup_epochs=-1"], "model.lr_scheduler.warmup_epochs: -1.0 is negative"),
        (["--model.student.checkpoint=/none.pt"], "model.student.checkpoint: /none.pt does not exist"),
        (["--trainer.callbacks+=KNN", "--trainer.callbacks.k=-1"], "KNN.k: -1 is not above 0"),
        (["--data.batch_size=-1"], "data.batch_size: -1 is not positive"),
        (["--trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val: -1 is less than 0"),
        (["--model=RKD"], ""),
        (["--model.freeze=backbone"], "model.freeze: the backbone of cifar_resnet8 has random weights"),
    ],
)
def test_the_real_fit_builds_the_objects(arguments: list[str], words: str) -> None:
    found = refusal(["--config", SP, *arguments])
    assert found.startswith(words)
    assert bool(found) == bool(words)


def test_equal_networks_are_built_once_and_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BuildingCLI, "_parts", parts := {})
    for weight in (1, 2, 3):
        assert refusal(["--config", SP, f"--model.sp_weight={weight}"]) == ""
    networks = [part for key, part in parts.items() if key.startswith('["Network"')]
    assert len(parts) == 3  # the data, the teacher and the student
    assert [network.frozen for network in networks] == [False, False]
    assert all(parameter.requires_grad for network in networks for parameter in network.parameters())


def test_settings_follow_the_class_to_which_they_belong() -> None:
    settings = {"model.angle_weight": 1, "model.optimizer.lr": 0.1, "trainer.max_epochs": 3}
    assert with_settings(settings, ["--x=1"]) == [
        "--model.angle_weight=1", "--model.optimizer.lr=0.1", "--trainer.max_epochs=3", "--x=1"
    ]  # fmt: skip
    for change in (["--model", "RKD"], ["--model=RKD"]):
        line = with_settings({"model.angle_weight": 1, "seed": 3}, ["--x=1", *change, "--model.angle_weight=2"])
        assert line == ["--seed=3", "--x=1", *change, "--model.angle_weight=1", "--model.angle_weight=2"]
    good = resolve(["--config", SP, *with_settings({"model.angle_weight": 7}, ["--model", "RKD"])])
    assert yaml.safe_load(good["config"])["model"]["init_args"]["angle_weight"] == 7
