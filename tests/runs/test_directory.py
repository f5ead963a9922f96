"""Where a run is kept, what it is called, and what W&B is told."""

import json
from pathlib import Path

import pytest
import wandb
import yaml
from helpers.wandb_files import records

from kd_lightning.cli import main
from kd_lightning.loggers import ResilientWandbLogger

ARGS = ["fit", "--model=Supervised", "--model.student.name=cifar_resnet8", "--data=Digits", "--trainer.accelerator=cpu"]
ARGS += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.enable_progress_bar=false"]


def test_wandb_offline_has_names_group_config_and_every_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    main([*ARGS, f"--run.output_dir={tmp_path}", "--run.id=w1", "--run.tags=[mine]", "--seed_everything=3"])
    wandb.finish()
    folder = tmp_path / "kd_lightning" / "supervised-s3" / "w1"
    written = records(folder)
    run = next(record.run for record in written if record.HasField("run"))
    assert (run.project, run.display_name, run.run_id) == ("kd_lightning", "supervised-s3", "w1")
    assert (run.run_group, run.job_type) == ("digits/cifar_resnet8", "supervised")
    assert {*run.tags} == {"mine", "digits", "supervised", "cifar_resnet8"}
    config = {u.key: json.loads(u.value_json) for record in written for u in record.config.update}
    config |= {u.key: json.loads(u.value_json) for u in run.config.update}
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert {key: config[key] for key in ("model", "data", "seed_everything")} == {
        key: saved[key] for key in ("model", "data", "seed_everything")
    }
    keys = {item.key or "/".join(item.nested_key) for record in written for item in record.history.item}
    assert keys >= {"val/acc", "val/ce", "test/acc", "test/ce"}


@pytest.mark.parametrize(
    ("environment", "mode"),
    [({}, "offline"), ({"WANDB_API_KEY": "0" * 40}, "online"), ({"WANDB_MODE": "disabled"}, "disabled")],
)
def test_wandb_goes_online_with_a_key_and_obeys_its_variable(
    environment: dict[str, str], mode: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ResilientWandbLogger(save_dir=tmp_path)._wandb_init["settings"].mode == mode


def test_a_key_in_netrc_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "netrc").write_text("machine wandb.example\n  login user\n  password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example")
    assert ResilientWandbLogger(save_dir=tmp_path)._wandb_init["settings"].mode == "online"


def test_a_server_that_cannot_be_reached_does_not_stop_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    real = wandb.init

    def no_server(**kwargs: object) -> object:
        if kwargs["settings"].mode == "online":
            raise wandb.errors.CommError("no route to host")
        return real(**kwargs)

    monkeypatch.setattr(wandb, "init", no_server)
    main([*ARGS, f"--run.output_dir={tmp_path}", "--run.id=w2", "--run.wandb=online"])
    wandb.finish()
    assert any("no route to host" in str(warning.message) for warning in recwarn)
    assert records(tmp_path / "kd_lightning" / "supervised-s0" / "w2")


def test_names_and_group_of_a_distillation(tmp_path: Path) -> None:
    args = [*ARGS, "--model=KD", "--model.teacher.name=cifar_resnet20.digits", "--model.teacher.pretrained=true"]
    cli = main([*args, f"--run.output_dir={tmp_path}", "--run.wandb=offline", "--run.id=w3"])
    wandb.finish()
    init = cli.trainer.loggers[1]._wandb_init
    assert init["group"] == "digits/cifar_resnet20.digits-cifar_resnet8"
    assert (init["name"], init["job_type"]) == ("kd-s0", "kd")
    assert (tmp_path / "kd_lightning" / "kd-s0" / "w3" / "last.ckpt").exists()
