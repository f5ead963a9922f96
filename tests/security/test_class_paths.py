"""What a config may name: subclasses of what stands in a field, and never what runs commands."""

from pathlib import Path

import pytest
import yaml
from helpers.configs import KD

from kd_lightning.cli import main

FIELDS = {
    "model": "model",
    "data": "data",
    "model.optimizer": "model.optimizer",
    "model.lr_scheduler": "model.lr_scheduler",
    "data.augmentations": "data.augmentations",
    "trainer.callbacks": "trainer.callbacks",
    "trainer.logger": "trainer.logger",
    "trainer.plugins": "trainer.plugins",
    "trainer.strategy": "trainer.strategy",
}
NAMES = [
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "collections.OrderedDict",
    "pickle.Unpickler",
]


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture):
    """`fit` of the KD config with arguments, one step at most; gives the line that it is refused by."""

    def refused(*args: str, config: dict | None = None) -> str:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config or KD))
        places = [f"--config={tmp_path / 'config.yaml'}", f"--run.output_dir={tmp_path / 'runs'}", "--run.wandb=off"]
        with pytest.raises(SystemExit) as stopped:
            main(["fit", *places, "--trainer.limit_train_batches=1", *args])
        assert stopped.value.code == 2
        assert not (tmp_path / "runs").exists()
        (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        return line

    return refused


def script(tmp_path: Path) -> Path:
    """A program that leaves a mark."""
    path = tmp_path / "program.sh"
    path.write_text(f"#!/bin/sh\ntouch {tmp_path / 'executed'}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", FIELDS)
def test_what_is_no_subclass(run, tmp_path: Path, field: str, name: str) -> None:
    spec = f"{{class_path: {name}, init_args: {{args: {script(tmp_path)}}}}}"
    listed = f"[{spec}]" if field in ("data.augmentations", "trainer.callbacks", "trainer.plugins") else spec
    for given in (name, listed):
        line = run(f"--{field}={given}")
        assert field in line
        assert name in line or "there is no" in line
    assert not (tmp_path / "executed").exists()


HIDDEN = {
    "model_kwargs": "--model.student.model_kwargs={x: SPEC}",
    "dict_kwargs": "--data={class_path: Digits, dict_kwargs: {x: SPEC}}",
    "an object": "--trainer.strategy={class_path: lightning.pytorch.strategies.DDPStrategy, "
    "init_args: {ddp_comm_state: SPEC}}",
    "any value": "--trainer.logger={class_path: lightning.pytorch.loggers.WandbLogger, dict_kwargs: {config: SPEC}}",
    "a callable": "--trainer.callbacks={class_path: lightning.pytorch.callbacks.LambdaCallback, "
    "init_args: {setup: SPEC}}",
}


@pytest.mark.parametrize("place", HIDDEN)
def test_nothing_is_built_where_any_value_fits(run, tmp_path: Path, place: str) -> None:
    """jsonargparse would build what has a class_path, of any class, in a place without a type."""
    spec = f"{{class_path: subprocess.Popen, init_args: {{args: {script(tmp_path)}}}}}"
    run(HIDDEN[place].replace("SPEC", spec))
    assert not (tmp_path / "executed").exists()


def test_a_module_that_is_named_is_imported(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own methods are taken by their path, so that a config which names a module runs it: said in the documentation."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\nclass Method: pass\n")
    assert "stranger.Method is not a subclass of StudentModule" in run("--model=stranger.Method")
    assert (tmp_path / "imported").exists()
