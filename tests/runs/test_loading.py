"""A run's checkpoint again: what it gives, and what is refused."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from helpers.factories import whole

from kd_lightning.analysis import LoadedRun, load_run, missing_runs, newest_run
from kd_lightning.cli import main
from kd_lightning.errors import ConfigError

ROOT = Path(__file__).parents[2]


class Harmful:
    """Unpickled, it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def fitted(folder: Path, config: str, *args: str) -> Path:
    """The folder of a short run."""
    always = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--run.wandb=off"]
    always += ["--data.max_train_samples=256", f"--run.output_dir={folder}", "--run.id=a", *args]
    main(["fit", f"--config={ROOT / 'configs/digits' / config}", *always])
    return next(folder.glob(f"*/{config.partition('.')[0]}-s*/a"))


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return shutil.copytree(finished_run, tmp_path / "run")


def accuracy(loaded: LoadedRun) -> float:
    images = loaded.data.datasets["test"]
    with torch.no_grad():
        return (loaded.student(whole(images)).argmax(dim=1) == images.labels).double().mean().item()


def test_the_selected_checkpoint_gives_what_was_tested(finished_run: Path) -> None:
    recorded = yaml.safe_load((finished_run / "results.json").read_text())
    before = torch.random.get_rng_state()
    loaded = load_run(finished_run)
    assert torch.equal(before, torch.random.get_rng_state())
    assert loaded.checkpoint.name == "best.ckpt"
    assert (type(loaded.method).__name__, loaded.data.name, loaded.data.seed) == ("KD", "digits", 0)
    assert not loaded.student.training
    view = loaded.view
    seen, theirs = view.predictions(), view.teacher.predictions()
    assert (seen.logits.argmax(1) == seen.labels).double().mean().item() == pytest.approx(
        recorded["metrics"]["test/acc"]
    )
    assert (theirs.logits.argmax(1) == seen.labels).double().mean() > 0.95
    assert accuracy(loaded) == pytest.approx(recorded["metrics"]["test/acc"])
    assert loaded.teacher is view.teacher.network
    assert view.knows_classes
    assert view.teacher.knows_classes


def test_the_example_of_the_docs(finished_run: Path, capsys: pytest.CaptureFixture) -> None:
    text = (ROOT / "docs/getting-started.md").read_text()
    code = re.search(r"<!-- load_run -->\n```python\n(.*?)```", text, re.S)[1]
    names: dict = {}
    exec(code.replace("runs/P/NAME/ID", str(finished_run)), names)
    assert capsys.readouterr().out.startswith(f"{finished_run / 'best.ckpt'} 0 KD [")
    labels = [names["run"].data.class_names[label] for label in names["images"].labels.tolist()]
    assert sum(a == b for a, b in zip(names["classes"], labels, strict=True)) >= 2


def test_a_file_in_the_folder_is_that_checkpoint(run: Path) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        state = torch.load(run / name, weights_only=True)["state_dict"]
        loaded = load_run(run / name)
        assert torch.equal(loaded.student.model.fc.weight, state["student.model.fc.weight"])
    (run / "results.json").write_text("{cut")
    assert load_run(run).checkpoint.name == "best.ckpt"
    (run / "best.ckpt").unlink()
    assert load_run(run).checkpoint.name == "last.ckpt"


def test_a_run_without_labels_or_without_a_teacher(tmp_path: Path) -> None:
    coss = load_run(fitted(tmp_path, "coss.yaml", "--trainer.max_epochs=1"))
    assert not coss.view.knows_classes
    assert coss.view.teacher.knows_classes
    alone = load_run(fitted(tmp_path, "baseline.yaml", "--trainer.max_epochs=1", "--run.name=baseline-s0"))
    assert alone.view.teacher is None
    with pytest.raises(ConfigError, match="Supervised has no teacher"):
        _ = alone.teacher


def changed(run: Path, **model: object) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["init_args"] |= model
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def test_another_network_is_refused(run: Path) -> None:
    changed(run, student={"name": "cifar_resnet8"})
    with pytest.raises(ConfigError, match=r"best.ckpt: the checkpoint does not fit KD .*of another shape"):
        load_run(run)


def test_a_missing_config_is_refused(run: Path) -> None:
    (run / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"config.yaml is missing"):
        load_run(run)


def test_missing_checkpoints_are_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"run: .*bestt.ckpt does not exist; nearest: best.ckpt"):
        load_run(run / "bestt.ckpt")
    with pytest.raises(ConfigError, match=r"contains only a network"):
        load_run(run / "student.safetensors")
    for name in ("best.ckpt", "last.ckpt"):
        (run / name).unlink()
    with pytest.raises(ConfigError, match=r"contains no checkpoint \(best.ckpt or last.ckpt\)"):
        load_run(run)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("model: [", "cannot be read"),
        ("- 1", "contains no class_path of a model or of data"),
        ("model: {class_path: KD}", "contains no class_path of a model or of data"),
        ("schema: 3\nmodel: {class_path: KDD}\ndata: {class_path: Digits}", "model: there is no class 'KDD'.*KD"),
        ("schema: 3\nmodel: {class_path: KD, init_args: {warmth: 3}}\ndata: {class_path: Digits}", "warmth"),
    ],
)
def test_a_broken_config_is_refused_in_one_line(run: Path, content: str, reason: str) -> None:
    (run / "config.yaml").write_text(content)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_run(run)
    assert "\n" not in str(caught.value)
    assert "config.yaml" in str(caught.value)


def test_a_teacher_that_is_gone_is_refused(run: Path) -> None:
    changed(run, teacher={"name": "cifar_resnet20", "checkpoint": "gone.safetensors"})
    with pytest.raises(ConfigError, match=r"config.yaml: cifar_resnet20: checkpoint: gone.safetensors does not exist"):
        load_run(run)


def test_a_teacher_with_other_weights_is_warned_of(run: Path) -> None:
    found = yaml.safe_load((run / "results.json").read_text())
    found["run"]["teacher_fingerprint"] = "0" * 16
    (run / "results.json").write_text(json.dumps(found))
    with pytest.warns(UserWarning, match=r"the weights of cifar_resnet20.digits are not the weights with which"):
        load_run(run)


def test_no_pickle_is_executed(run: Path) -> None:
    state = torch.load(run / "best.ckpt", weights_only=True)
    torch.save({**state, "more": Harmful(run / "executed")}, run / "best.ckpt")
    with pytest.raises(ConfigError, match=r"it is a pickle with more than weights"):
        load_run(run)
    assert not (run / "executed").exists()


def test_the_newest_run_of_a_name(tmp_path: Path) -> None:
    for number, place in enumerate(("p/kd-s0/a", "p/kd-s0/b", "p/sp-s0/a")):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "results.json").write_text("{}")
        os.utime(tmp_path / place / "results.json", (number, 100 - number))
    (tmp_path / "p/kd-s0/c").mkdir()  # not finished
    assert newest_run(tmp_path, "kd-s0") == tmp_path / "p/kd-s0/a"
    with pytest.raises(ConfigError, match=r"no finished run 'kd-s1'; nearest: kd-s0"):
        newest_run(tmp_path, "kd-s1")


def test_missing_runs_leave_out_what_is_done(tmp_path: Path) -> None:
    configs = [ROOT / f"configs/digits/{name}.yaml" for name in ("kd", "sp")]
    planned = missing_runs(configs, tmp_path, "--trainer.max_epochs=2", seeds=2)
    assert [(plan[1], plan[2]) for plan in planned] == [
        (f"--config={path}", f"--seed_everything={seed}") for seed in (0, 1) for path in configs
    ]
    assert all(plan[0] == "fit" and plan[-1] == "--trainer.max_epochs=2" for plan in planned)
    done = tmp_path / "kd_lightning-digits/kd-s1/a"
    done.mkdir(parents=True)
    assert missing_runs(configs, tmp_path, "--trainer.max_epochs=2", seeds=2) == planned
    (done / "results.json").write_text("{}")
    assert missing_runs(configs, tmp_path, "--trainer.max_epochs=2", seeds=2) == [*planned[:2], planned[3]]
    with pytest.raises(ConfigError, match=r"configs: .*kdd.yaml does not exist; nearest: kd.yaml"):
        missing_runs([ROOT / "configs/digits/kdd.yaml"], tmp_path)
