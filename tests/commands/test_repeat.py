"""repeat: which runs are started, skipped and gone on with, and what is refused."""

import re
import zipfile
from pathlib import Path

import pytest
import yaml
from helpers.fake_fit import began, folders, install, write

from kd_lightning.cli import main
from kd_lightning.commands.repeat import Repeat, command, plan
from kd_lightning.commands.repeat.comparability import differences
from kd_lightning.errors import ConfigError, RunError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)


@pytest.mark.usefixtures("fake")
def test_seed_by_seed_then_nothing_is_done_twice(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    configs = [write(tmp_path, "a"), write(tmp_path, "b", fake={"select": "test/knn"})]
    rows = Repeat(configs=configs, seeds=2)([])
    assert began(tmp_path) == ["a-s0", "b-s0", "a-s1", "b-s1"]
    assert [(row["config"], row["seed"], row["state"], row["result"]) for row in rows] == [
        (configs[0], 0, "ran", "50.00%"),
        (configs[1], 0, "ran", "50.00% kNN"),
        (configs[0], 1, "ran", "51.00%"),
        (configs[1], 1, "ran", "51.00% kNN"),
    ]
    before = folders(tmp_path)
    printed = capfd.readouterr().out
    assert "python -m kd_lightning compare " + " ".join(row["folder"] for row in rows) + " --out report" in printed
    for row in rows:
        assert Path(f"{row['folder']}.log").read_text() == "fit says: step\n"
    again = Repeat(configs=configs, seeds=[1, 7])([])
    assert [(row["seed"], row["state"]) for row in again] == [(1, "done before")] * 2 + [(7, "ran")] * 2
    assert [row["minutes"] for row in (*rows, *again)] == [1.5] * 8  # of training: not of this process
    assert [*{*folders(tmp_path)} - {*before}] != []
    assert len(folders(tmp_path)) == 6
    assert not [*tmp_path.rglob("*.lock")]


@pytest.mark.usefixtures("fake")
def test_another_config_or_further_argument_is_another_run(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    config = write(tmp_path, "a")
    Repeat(configs=[config], seeds=1)([])
    assert "has changed" not in capfd.readouterr().out
    (row,) = Repeat(configs=[config], seeds=1)(["--trainer.max_epochs=5"])
    assert row["state"] == "ran"
    assert (
        f"{config} has changed (trainer.max_epochs was 3, is now 5); new runs are started, and the old runs remain"
        in capfd.readouterr().out
    )
    write(tmp_path, "a", model={"class_path": "kd_lightning.methods.KD", "init_args": {"temperature": 8.0}})
    (row,) = Repeat(configs=[config], seeds=1)([])
    assert row["state"] == "ran"
    assert "model.init_args.temperature" in capfd.readouterr().out
    assert len(folders(tmp_path)) == 3
    (row,) = Repeat(configs=[config], seeds=1)(["--run.group=other", f"--run.output_dir={tmp_path}/runs/../runs"])
    assert row["state"] == "done before"  # what a run is filed under does not make it another


@pytest.mark.usefixtures("fake")
def test_what_is_unfinished_goes_on_and_what_has_no_checkpoint_starts_anew(tmp_path: Path) -> None:
    config = write(tmp_path, "a")
    jobs = [plan.Job(*plan.resolve([(config, {})], []), seed) for seed in range(4)]
    for job in jobs:
        (job.parent_dir / job.id).mkdir(parents=True)
    whole, cut = jobs[0].parent_dir / jobs[0].id / "last.ckpt", jobs[1].parent_dir / jobs[1].id / "last.ckpt"
    with zipfile.ZipFile(whole, "w") as file:
        file.writestr("data.pkl", "x" * 1000)
    cut.write_bytes(whole.read_bytes()[:500])  # killed while it was written
    (jobs[3].parent_dir / jobs[3].id / "results.json").write_text('{"schema": 3, "metr')
    rows = Repeat(configs=[config], seeds=4)([])
    assert [row["state"] for row in rows] == ["resumed", "ran", "ran", "ran"]
    assert [Path(row["folder"]).name for row in rows] == [f"{job.id}-r1" for job in jobs]
    then = [yaml.safe_load((Path(row["folder"]) / "config.yaml").read_text()) for row in rows]
    assert [content.get("ckpt_path") for content in then] == [str(whole), None, None, None]
    assert [row["state"] for row in Repeat(configs=[config], seeds=4)([])] == ["done before"] * 4


@pytest.mark.usefixtures("fake")
def test_a_second_attempt_that_saved_nothing_leaves_the_first_ones_checkpoint(tmp_path: Path) -> None:
    config = write(tmp_path, "a")
    job = plan.Job(*plan.resolve([(config, {})], []), 0)
    for name in (job.id, f"{job.id}-r1", f"{job.id}-r10"):
        (job.parent_dir / name).mkdir(parents=True)
    with zipfile.ZipFile(job.parent_dir / job.id / "last.ckpt", "w") as file:
        file.writestr("data.pkl", "")
    assert job.checkpoint() == job.parent_dir / job.id / "last.ckpt"
    assert job.next() == job.parent_dir / f"{job.id}-r11"


@pytest.mark.usefixtures("fake")
def test_one_fails_and_the_others_go_on(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    configs = [write(tmp_path, "a", fake={"fails": [0]}), write(tmp_path, "b", fake={"silent": [1]})]
    with pytest.raises(RunError) as raised:
        Repeat(configs=configs, seeds=2)([])
    assert str(raised.value) == (
        f"2 of 4 runs failed: {configs[0]}, seed 0: the loss is nan; "
        f"{configs[1]}, seed 1: it ended without a results.json; its last output: fit says: step"
    )
    assert began(tmp_path) == ["a-s0", "b-s0", "a-s1", "b-s1"]
    printed = capfd.readouterr().out
    assert "the loss is nan" in printed
    log = next(tmp_path.glob("runs/p/a-s0/*.log"))
    assert str(log) in printed
    assert "last words" in log.read_text()
    with pytest.raises(RunError):  # no checkpoint: anew, in a folder and a log of its own
        Repeat(configs=configs[:1], seeds=1)([])
    assert len([*tmp_path.glob("runs/p/a-s0/*.log")]) == 2


@pytest.mark.usefixtures("fake")
def test_a_config_may_read_what_an_earlier_one_writes(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    teacher = write(tmp_path, "teacher")
    job = plan.Job(*plan.resolve([(teacher, {})], []), 0)
    weights = str(job.parent_dir / job.id / "config.yaml")
    method = {"class_path": "kd_lightning.methods.KD", "init_args": {"temperature": 4.0, "checkpoint": weights}}
    student = write(tmp_path, "student", model=method)
    line = f"{student} reads {weights}, which a run of {teacher} writes"
    with pytest.raises(ConfigError, match=re.escape(f"model.teacher.checkpoint: {weights} does not exist ({student})")):
        Repeat(configs=[student, teacher], seeds=1)([])  # in this order
    with pytest.raises(ConfigError, match=re.escape(f"max_parallel: {line}; give 1, so that the runs")):
        Repeat(configs=[teacher, student], seeds=1, max_parallel=2)([])
    assert began(tmp_path) == []
    rows = Repeat(configs=[teacher, student], seeds=1)([])
    assert [row["state"] for row in rows] == ["ran", "ran"]
    assert f"{line}; it is checked when its run begins\n" in capfd.readouterr().out


@pytest.mark.usefixtures("fake")
def test_a_dry_run_starts_nothing(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    config = write(tmp_path, "a")
    Repeat(configs=[config], seeds=[1])([])
    before = [*tmp_path.rglob("*")]
    rows = Repeat(configs=[config], seeds=2, dry_run=True)([])
    assert [row["state"] for row in rows] == ["would run", "done before"]
    printed = capfd.readouterr().out
    assert f"fit --config {config} --seed_everything=0 --run.id={plan.MARK}" in printed
    assert [*tmp_path.rglob("*")] == before


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"trainer": {"max_epochs": 5}}, "trainer.max_epochs ({a}: 3, {b}: 5)"),
        ({"trainer": {"max_steps": 20}}, "batch size x steps ({a}: complete epochs, {b}: 160 images)"),
        (
            {"trainer": {"limit_train_batches": 2}},
            "batch size x steps ({a}: complete epochs, {b}: 16 images per epoch)",
        ),
        ({"data": {"max_train_samples": 99}}, "data ({a}: Digits, {b}: Digits max_train_samples=99)"),
        (
            {"data": {"split_seed": 1}},
            "validation split ({a}: val_split=0.1 split_seed=0, {b}: val_split=0.1 split_seed=1)",
        ),
        ({"protocol": {"select": "last"}}, ""),  # the default is the method's, and may be the same
        ({"data": {"batch_size": 16}}, ""),  # as many images in as many epochs
        ({"trainer": {"limit_train_batches": 1.0}}, ""),
    ],
)
def test_unequal_budgets_are_named(tmp_path: Path, capfd: pytest.CaptureFixture, other: dict, words: str) -> None:
    a, b = write(tmp_path, "a"), write(tmp_path, "b", **other)
    Repeat(configs=[a, b], seeds=1, dry_run=True)([])
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("warning: ")]
    expected = f"warning: the runs are not comparable: the configs differ in {words.format(a=a, b=b)}"
    assert lines == ([expected] if words else [])


@pytest.mark.usefixtures("fake")
def test_steps_of_another_batch_size_can_be_as_many_images(tmp_path: Path) -> None:
    a = write(tmp_path, "a", trainer={"max_steps": 20}, protocol={"select": "last"})
    b = write(tmp_path, "b", trainer={"max_steps": 10}, data={"batch_size": 16}, protocol={"select": "best"})
    found = differences([*plan.resolve([(a, {})], []), *plan.resolve([(b, {})], [])])
    assert found == f"the configs differ in protocol.select ({a}: last, {b}: best)"


@pytest.mark.usefixtures("fake")
def test_refusals(tmp_path: Path) -> None:
    a, b = write(tmp_path, "a"), write(tmp_path, "b")
    same = write(
        tmp_path, "c", run={"project": "p", "name": "a-s{seed}", "output_dir": str(tmp_path / "runs"), "id": None}
    )
    for kwargs, arguments, words in [
        ({"configs": [str(tmp_path / "aa.yaml")]}, [], "aa.yaml does not exist; nearest: a.yaml"),
        ({"configs": [str(tmp_path)]}, [], "is not a file"),
        ({"configs": [a, f"{tmp_path}/./a.yaml"]}, [], "a.yaml is given twice"),
        ({"configs": [a, same]}, [], f"the runs of {a} and {same} have the same name a-s{{seed}}"),
        ({"configs": [a, b]}, ["--run.name=x"], "have the same name x"),
        ({"configs": [a], "seeds": 0}, [], "seeds: 0 is not above 0"),
        ({"configs": [a], "seeds": []}, [], "seeds: the list is empty"),
        ({"configs": [a], "seeds": [1, -1]}, [], "seeds: -1 is not a number from 0"),
        ({"configs": [a], "seeds": [1, 2, 1]}, [], "seeds: 1 is given twice"),
        ({"configs": [a], "max_parallel": 0}, [], "max_parallel: 0 is not above 0"),
        (
            {"configs": [a]},
            ["--seed_everything", "3"],
            "seed_everything: repeat sets the seed of each run; use --seeds",
        ),
        ({"configs": [a]}, ["--run.id=3"], "run.id: repeat sets the id of each run"),
        ({"configs": [a]}, ["--ckpt_path=x"], "ckpt_path: repeat resumes"),
        ({"configs": [a]}, ["--typo=3"], f"typo is not a field ({a})"),
    ]:
        with pytest.raises(ConfigError) as raised:
            Repeat(**kwargs)(arguments)
        assert words in str(raised.value)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "runs").exists()


def test_fit_leaves_what_is_looked_for(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real fit's results.json ends a job, and its config.yaml tells of no change where there is none."""
    config = ROOT / "configs/digits/baseline.yaml"
    brief = ["--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    brief += ["--trainer.enable_progress_bar=false", "--run.wandb=off", f"--run.output_dir={tmp_path}"]
    capfd.readouterr()
    with pytest.raises(SystemExit):
        main(["fit", f"--config={config}", *brief, "--print_config"])
    resolved = plan.Config(str(config), yaml.safe_load(capfd.readouterr().out))
    job, other = plan.Job(resolved, 4), plan.Job(resolved, 5)
    main(job.command(brief, job.next())[len(plan.FIT) - 1 :])
    monkeypatch.setattr(command, "resolve", lambda requests, arguments: [resolved])
    (row,) = Repeat(configs=[str(config)], seeds=[4])(brief)
    assert row["state"] == "done before"
    assert row["result"].endswith("%")
    assert zipfile.is_zipfile(job.parent_dir / job.id / "last.ckpt")
    kept = job.parent_dir / job.id / "config.yaml"
    kept.parent.rename(job.parent_dir / f"{plan.MARK}0")  # as if it were of another digest
    kept = job.parent_dir / f"{plan.MARK}0" / "config.yaml"
    assert job.changed() == "defaults of another version of the code"
    kept.write_text(kept.read_text().replace("max_epochs: 1", "max_epochs: 2"))
    assert job.changed() == "trainer.max_epochs was 2, is now 1"
    assert other.changed() == ""


@pytest.mark.slow
def test_real_processes(tmp_path: Path) -> None:
    configs = [str(ROOT / f"configs/digits/{name}.yaml") for name in ("baseline", "kd")]
    brief = ["--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--run.wandb=off", f"--run.output_dir={tmp_path}"]
    brief += ["--protocol.select=best"]
    rows = Repeat(configs=configs, seeds=1, max_parallel=2)(brief)
    assert [row["state"] for row in rows] == ["ran", "ran"]
    (Path(rows[0]["folder"]) / "results.json").unlink()  # as if it were ended in its test
    rows = Repeat(configs=configs, seeds=1)(brief)
    assert [row["state"] for row in rows] == ["resumed", "done before"]
    assert Path(rows[0]["folder"]).name.endswith("-r1")


@pytest.mark.usefixtures("fake")
def test_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    a, b = write(tmp_path, "a"), write(tmp_path, "b")
    rows = main(["repeat", "--configs", a, b, "--trainer.max_epochs", "6", "--seeds=[3, 7]", "--dry_run"])
    assert [(row["config"], row["seed"], row["state"]) for row in rows] == [
        (config, seed, "would run") for seed in (3, 7) for config in (a, b)
    ]
    printed = capfd.readouterr().out
    assert f"fit --config {a} --trainer.max_epochs 6 --seed_everything=3" in printed
    assert not (tmp_path / "runs").exists()
    for args, words in (
        (["--seeds", "2"], "configs is required"),
        (["--configs", a, "--seeds=x"], "seeds: x is not int"),
        (["--configs", a, "--max_parallel=x"], "max_parallel"),
        (["--configs", a, "--typo=3"], "typo is not a field"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["repeat", *args])
        assert stopped.value.code == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert words in line


def test_changed_inputs_can_be_allowed_for_a_run_that_was_stopped_without_it() -> None:
    """The error says to set protocol.allow_changed_inputs, and this must not begin another run."""

    def identifier(**protocol: bool) -> str:
        run = {"project": "p", "name": "n", "output_dir": "runs"}
        return plan.Job(plan.Config("kd.yaml", {"model": {"class_path": "KD"}, "run": run, "protocol": protocol}), 0).id

    assert identifier(allow_changed_inputs=True) == identifier(allow_changed_inputs=False)
    assert identifier(allow_changed_inputs=True, test=True) != identifier(allow_changed_inputs=True, test=False)
