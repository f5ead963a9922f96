"""The main job end to end: fit, test, validate, predict, and what they leave behind."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

from kd_lightning.cli import main
from kd_lightning.models import Network

FAST = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher's checkpoint, trained for two epochs by the command that trains teachers."""
    runs = tmp_path_factory.mktemp("teacher")
    main(
        ["fit", "--model=Supervised", "--model.student.name=cifar_resnet8", "--data=Digits", "--trainer.max_epochs=2"]
        + [*FAST, f"--run.output_dir={runs}", "--run.name=teacher", "--run.id=t", "--run.wandb=off"]
    )
    return runs / "kd_lightning" / "teacher" / "t" / "last.ckpt"


@pytest.fixture(scope="module")
def config(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A KD config of a few seconds."""
    content = {
        "data": {"class_path": "Digits", "init_args": {"max_train_samples": 300, "batch_size": 50}},
        "model": {
            "class_path": "KD",
            "init_args": {
                "teacher": {"name": "cifar_resnet8", "checkpoint": str(teacher)},
                "student": {"name": "cifar_resnet8", "model_kwargs": {"channels": [4, 4, 8, 16]}},
            },
        },
        "trainer": {"max_epochs": 2, "log_every_n_steps": 1},
    }
    path = tmp_path_factory.mktemp("config") / "kd.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def run(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished KD run."""
    runs = tmp_path_factory.mktemp("runs")
    main(["fit", f"--config={config}", f"--run.output_dir={runs}", "--run.id=first", "--run.wandb=off", *FAST])
    return runs / "kd_lightning" / "kd-s0" / "first"


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def logged(run: Path, name: str) -> list[float]:
    return [float(row[name]) for row in rows(run) if row.get(name)]


def test_a_run_has_all_of_its_own_in_one_folder(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names >= {"best.ckpt", "last.ckpt", "student.safetensors", "config.yaml", "metrics.csv"}
    terms = {"train/ce", "train/kd", "train/loss", "train/acc", "val/acc", "val/ce", "val/agreement"}
    assert {*rows(run)[0]} >= {*terms, "test/acc", "test/agreement", "teacher/acc"}
    assert len(logged(run, "train/loss")) == 12  # 300 images, 50 a step, 2 epochs
    assert len(logged(run, "test/acc")) == 1
    for ce, kd, total in zip(*(logged(run, f"train/{name}") for name in ("ce", "kd", "loss")), strict=True):
        assert ce + kd == pytest.approx(total, rel=1e-5)


def test_test_from_the_runs_own_config_gives_the_fits_result(run: Path) -> None:
    again = main(["test", f"--config={run / 'config.yaml'}", f"--ckpt_path={run / 'best.ckpt'}", *FAST])
    assert float(again.trainer.callback_metrics["test/acc"]) == pytest.approx(logged(run, "test/acc")[0])
    assert float(again.trainer.callback_metrics["test/agreement"]) == pytest.approx(logged(run, "test/agreement")[0])


def test_validate_gives_the_best_epochs_number(run: Path) -> None:
    again = main(["validate", f"--config={run / 'config.yaml'}", f"--ckpt_path={run / 'best.ckpt'}", *FAST])
    assert float(again.trainer.callback_metrics["val/acc"]) == pytest.approx(max(logged(run, "val/acc")))


def test_predict_writes_logits_and_embeddings_with_their_indices(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "predictions.safetensors"
    args = ["predict", f"--config={run / 'config.yaml'}", f"--ckpt_path={run / 'best.ckpt'}", *FAST]
    main([*args, f"--predictions.path={out}"])
    with safe_open(out, "pt") as file:
        logits, labels, indices = (file.get_tensor(name) for name in ("logits", "labels", "indices"))
        assert file.get_tensor("embedding").shape == (360, 16)
        assert json.loads(file.metadata()["class_names"]) == [str(digit) for digit in range(10)]
    assert (logits.argmax(1) == labels).float().mean() == pytest.approx(logged(run, "test/acc")[0])
    assert len(indices.unique()) == 360
    before = out.read_bytes()
    with pytest.raises(SystemExit):
        main([*args, f"--predictions.path={out}"])
    assert out.read_bytes() == before


def test_the_student_alone_is_a_plain_timm_state_dict(run: Path) -> None:
    student = Network(
        "cifar_resnet8", checkpoint=str(run / "student.safetensors"), model_kwargs={"channels": [4, 4, 8, 16]}
    )
    saved = torch.load(run / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[f"student.model.{name}"]) for name, value in student.model.state_dict().items())


def test_a_run_is_never_written_over(run: Path, config: Path, capfd: pytest.CaptureFixture) -> None:
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "fit",
                f"--config={config}",
                f"--run.output_dir={run.parents[2]}",
                "--run.id=first",
                "--run.wandb=off",
                *FAST,
            ]
        )
    assert stopped.value.code == 2
    assert "run.id" in capfd.readouterr().err
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_a_run_goes_on_from_its_last_checkpoint_in_a_folder_of_its_own(run: Path) -> None:
    args = [
        "fit",
        f"--config={run / 'config.yaml'}",
        f"--ckpt_path={run / 'last.ckpt'}",
        "--trainer.max_epochs=3",
        *FAST,
    ]
    main([*args, "--run.id=second", "--run.wandb=off", f"--run.output_dir={run.parents[2]}"])
    second = run.with_name("second")
    assert [int(row["step"]) for row in rows(second) if row.get("train/loss")] == list(range(12, 18))
    assert not logged(second, "teacher/acc")  # measured once, before epoch 0


def test_the_literatures_protocol_trains_on_all_and_tests_the_last_epoch(config: Path, tmp_path: Path) -> None:
    args = ["fit", f"--config={config}", "--data.val_split=0", f"--run.output_dir={tmp_path}", "--run.wandb=off", *FAST]
    cli = main([*args, "--data.max_train_samples=null", "--trainer.limit_train_batches=2", "--run.id=full"])
    folder = tmp_path / "kd_lightning" / "kd-s0" / "full"
    assert len(cli.datamodule.datasets["train"]) == 1437
    assert not (folder / "best.ckpt").exists()
    assert (folder / "last.ckpt").exists()
    assert not any(name.startswith("val/") for name in rows(folder)[0])
    assert len(logged(folder, "test/acc")) == len(logged(folder, "teacher/acc")) == 1


def test_print_config_is_whole_and_runs_again(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", f"--config={config}", "--print_config"])
    assert stopped.value.code == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    main(["fit", f"--config={printed}", "--trainer.fast_dev_run=true", f"--run.output_dir={tmp_path}", *FAST])


@pytest.mark.e2e
def test_the_same_seed_gives_the_same_student_and_another_seed_another(config: Path, tmp_path: Path) -> None:
    def weights(seed: int, name: str) -> dict[str, torch.Tensor]:
        args = [
            "fit",
            f"--config={config}",
            f"--seed_everything={seed}",
            f"--run.output_dir={tmp_path}",
            f"--run.id={name}",
        ]
        main([*args, "--run.wandb=off", "--run.name=x", "--trainer.max_epochs=1", *FAST])
        return torch.load(tmp_path / "kd_lightning" / "x" / name / "last.ckpt", weights_only=True)["state_dict"]

    first, again, other = weights(1, "a"), weights(1, "b"), weights(2, "c")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["student.model.fc.weight"], other["student.model.fc.weight"])


@pytest.mark.slow
def test_the_real_resnet56_scores_what_its_page_says(shared: Path) -> None:
    torch.set_num_threads(2)
    data = shared / "data" / "cifar10-jpeg.tar.xz"
    cli = main(
        ["test", "--model=Supervised", "--model.student.name=cifar_resnet56", "--data=ImageFolder", *FAST]
        + [
            f"--model.student.checkpoint={shared / 'weights' / 'resnet56_cifar10_jpeg.safetensors'}",
            f"--data.path={data}",
        ]
    )
    assert float(cli.trainer.callback_metrics["test/acc"]) == pytest.approx(0.894, abs=5e-4)
