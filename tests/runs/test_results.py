"""results.json and what stands beside it: what fit writes, what test adds, and what neither touches."""

import csv
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import wandb
from helpers.finished_run import ARGS
from helpers.wandb_files import records
from safetensors.torch import load_file

from kd_lightning.cli import main
from kd_lightning.data import Digits
from kd_lightning.errors import ConfigError
from kd_lightning.evaluation import EvaluationResult, Evaluator, NetworkView
from kd_lightning.loggers import ResilientWandbLogger
from kd_lightning.runs import results
from kd_lightning.runs.results.code import code

ROOT = Path(__file__).parents[2]


@pytest.fixture
def own(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished_run, tmp_path / "project" / "kd-s0" / "r"))


def test_fit_writes_what_there_is_to_say(finished_run: Path) -> None:
    found = json.loads((finished_run / results.FILE).read_text())
    assert found["schema"] == results.SCHEMA
    assert found["run"] | {"teacher_fingerprint": None} == {
        "project": "kd_lightning-digits",
        "name": "kd-s0",
        "id": "r",
        "group": "digits/cifar_resnet20.digits-cifar_resnet8",
        "method": "KD",
        "seed": 0,
        "teacher": "cifar_resnet20.digits",
        "teacher_fingerprint": None,
        "student": "cifar_resnet8",
    }
    assert (found["data"]["train"], found["data"]["val"], found["data"]["test"]) == (1293, 144, 360)
    checkpoint = torch.load(finished_run / "best.ckpt", weights_only=True)
    protocol = found["protocol"]
    assert (protocol["select"], protocol["checkpoint"], protocol["max_epochs"]) == ("best", "best.ckpt", 3)
    assert (protocol["epoch"], protocol["step"]) == (checkpoint["epoch"], checkpoint["global_step"])
    assert 0 < found["seconds"] < 300
    metrics = found["metrics"]
    assert {"test/acc", "test/ece", "test/cka", "test/acc_teacher", "cost/parameters", "val/acc"} <= {*metrics}
    callback = next(v for k, v in checkpoint["callbacks"].items() if "best_model_score" in v)
    assert metrics["val/acc"] == pytest.approx(float(callback["best_model_score"]))
    assert {"train/loss", "val/acc"} <= {*found["last"]}
    with open(finished_run / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["val/acc"] and int(row["epoch"]) == protocol["epoch"]]
    selected = {key: float(value) for key, value in rows[0].items() if key.startswith("val/") and value}
    selected.pop("val/loss", None)
    assert {key: value for key, value in metrics.items() if key.startswith("val/")} == pytest.approx(selected)
    assert next(iter(metrics)).startswith("val/")
    assert {"per_class", "confusion", "calibration"} <= {*found["details"]}


def test_predictions_add_up_to_the_accuracy(finished_run: Path) -> None:
    found, each = json.loads((finished_run / results.FILE).read_text()), load_file(finished_run / results.PREDICTIONS)
    right = (each["prediction"] == each["labels"]).double().mean()
    assert float(right) == pytest.approx(found["metrics"]["test/acc"], abs=1e-6)
    same = (each["prediction"] == each["teacher_prediction"]).double().mean()
    assert float(same) == pytest.approx(found["metrics"]["test/agreement"], abs=1e-6)
    assert len({*each["indices"].tolist()}) == 360


def test_the_dashboard_shows_the_selected_epoch_and_not_the_last(finished_run: Path, tmp_path: Path) -> None:
    found = json.loads((finished_run / results.FILE).read_text())
    found["metrics"]["val/acc"], found["last"]["val/acc"] = 0.9, 0.5
    logger = ResilientWandbLogger(mode="offline", save_dir=tmp_path, project="p", name="n", id="i")
    for step, accuracy in enumerate((0.9, 0.5)):
        logger.log_metrics({"val/acc": accuracy}, step)
    results.log_tables(logger, found, {}, Digits())
    wandb.finish()
    assert not logger.lost
    updates = [update for record in records(tmp_path) for update in record.summary.update]
    summary = {update.key or "/".join(update.nested_key): update.value_json for update in updates}
    assert (json.loads(summary["val/acc"]), json.loads(summary["last/val/acc"])) == (0.9, 0.5)


def test_the_dashboard_has_summary_and_tables(finished_run: Path) -> None:
    written = records(finished_run)
    summary = {u.key or "/".join(u.nested_key): u.value_json for r in written for u in r.summary.update}
    found = json.loads((finished_run / results.FILE).read_text())
    assert json.loads(summary["selected/epoch"]) == found["protocol"]["epoch"]
    for name in ("val/acc", "val/ce", "test/acc"):
        assert json.loads(summary[name]) == pytest.approx(found["metrics"][name], rel=1e-6), name
    assert json.loads(summary["last/val/acc"]) == found["last"]["val/acc"]
    history = {i.key or "/".join(i.nested_key): i.value_json for r in written for i in r.history.item}
    assert any(key.startswith("test/per_class") for key in history)
    table = json.loads(
        next(finished_run.glob("wandb/offline-run-*/files/media/table/test/per_class*.json")).read_text()
    )
    assert table["columns"] == ["class", "count", "accuracy", "accuracy_teacher"]
    assert [row[2] for row in table["data"]] == found["details"]["per_class"]["accuracy"]
    table = json.loads(
        next(finished_run.glob("wandb/offline-run-*/files/media/table/test/disagreement*.json")).read_text()
    )
    each = load_file(finished_run / results.PREDICTIONS)
    differ = int((each["prediction"] != each["teacher_prediction"]).sum())
    assert len(table["data"]) == min(32, differ) > 0
    assert all(row[3] != row[5] for row in table["data"])
    confidences = [row[4] for row in table["data"]]
    assert confidences == sorted(confidences, reverse=True)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr("kd_lightning.callbacks.protocol.rank_zero_info", lines.append)
    return lines


def test_test_adds_what_is_new_to_the_selected_checkpoints_results(own: Path, said: list[str]) -> None:
    before = json.loads((own / results.FILE).read_text())
    again = ["test", f"--config={own / 'config.yaml'}", "--trainer.accelerator=cpu", "--trainer.callbacks+=KNN"]
    noise = "{class_path: OutOfDistribution, init_args: {data: [{class_path: RandomImages, init_args: {images: 100}}]}}"
    main([*again, f"--trainer.callbacks+={noise}", f"--ckpt_path={own / 'best.ckpt'}"])
    after = json.loads((own / results.FILE).read_text())
    assert {"test/knn", "test/ood_knn_random"} <= {*after["metrics"]} - {*before["metrics"]}
    assert "ood" in after["details"]
    assert after["metrics"]["val/acc"] == before["metrics"]["val/acc"]
    assert after["metrics"]["test/acc"] == before["metrics"]["test/acc"]
    assert (after["seconds"], after["last"]) == (before["seconds"], before["last"])
    assert said == [f"the results are added to {own / results.FILE}"]
    assert not [*own.glob(".*partial")]


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--ckpt_path=last.ckpt"], "last.ckpt is tested, but the selected checkpoint of the run is best.ckpt"),
        (
            ["--ckpt_path=last.ckpt", "--protocol.select=last"],
            "last.ckpt is tested, but the selected checkpoint of the run is best.ckpt",
        ),
        (["--ckpt_path=best.ckpt", "--seed_everything=7"], "seed_everything is 7 in this test, but 0 in the run"),
        (
            ["--ckpt_path=best.ckpt", "--data.val_split=0.3"],
            "data.init_args.val_split is 0.3 in this test, but 0.1 in the run",
        ),
        (["--ckpt_path=best.ckpt", "--trainer.max_epochs=9"], "trainer.max_epochs is 9 in this test, but 3 in the run"),
        (["--ckpt_path=best.ckpt", f"--config={ROOT / 'configs/digits/baseline.yaml'}"], "in this test, but "),
        (["--ckpt_path=best.ckpt", "--trainer.limit_test_batches=1"], "excludes images"),
        (
            ["--ckpt_path=best.ckpt", "--data=RandomImages", "--data.images=100", "--data.classes=10"],
            "data.class_path is ",
        ),
    ],
)
def test_nothing_else_is_added(own: Path, args: list[str], reason: str, said: list[str]) -> None:
    before = (own / results.FILE).read_bytes()
    args = [arg.replace("ckpt_path=", f"ckpt_path={own}/") for arg in args]
    main(["test", f"--config={own / 'config.yaml'}", "--trainer.accelerator=cpu", *args])
    assert reason in said[0]
    assert (own / results.FILE).read_bytes() == before


def test_a_run_that_is_not_finished_gets_no_results(own: Path, said: list[str]) -> None:
    for name in ("student.safetensors", results.FILE):
        (own / name).unlink()
    main(["test", f"--config={own / 'config.yaml'}", "--trainer.accelerator=cpu", f"--ckpt_path={own / 'best.ckpt'}"])
    assert "the run is not finished" in said[0]
    assert not (own / results.FILE).exists()


def test_a_run_that_was_moved_keeps_its_names(own: Path, tmp_path: Path) -> None:
    moved = Path(shutil.move(own, tmp_path / "elsewhere"))
    main(
        ["test", f"--config={moved / 'config.yaml'}", "--trainer.accelerator=cpu", f"--ckpt_path={moved / 'best.ckpt'}"]
    )
    found = json.loads((moved / results.FILE).read_text())
    assert (found["run"]["project"], found["run"]["name"], found["run"]["id"]) == ("kd_lightning-digits", "kd-s0", "r")


@pytest.mark.parametrize("content", ['{"schema": 3, "metr', '{"schema": 3, "metrics": {"a": 1}}', "[]"])
def test_results_that_cannot_be_added_to_are_kept_aside(own: Path, content: str) -> None:
    (own / results.FILE).write_text(content)
    main(["test", f"--config={own / 'config.yaml'}", "--trainer.accelerator=cpu", f"--ckpt_path={own / 'best.ckpt'}"])
    assert (own / f"{results.FILE}.unread").read_text() == content
    assert json.loads((own / results.FILE).read_text())["schema"] == 3


def test_histograms_of_two_tests_are_both_kept_and_settings_told(own: Path) -> None:
    noise = "{class_path: RandomImages, init_args: {images: 100, size: 8}}"
    for score in ("msp", "knn"):
        evaluator = f"{{class_path: OutOfDistribution, init_args: {{data: [{noise}], scores: [{score}]}}}}"
        args = ["test", f"--config={own / 'config.yaml'}", "--trainer.accelerator=cpu"]
        main([*args, f"--trainer.callbacks+={evaluator}", f"--ckpt_path={own / 'best.ckpt'}"])
    found = json.loads((own / results.FILE).read_text())
    assert {"msp_random", "knn_random"} <= {*found["details"]["ood"]}
    assert found["evaluators"]["OutOfDistribution"]["kinds"] == ["knn"]
    assert {"Classification", "Cost", "OutOfDistribution"} <= {*found["evaluator_seconds"]}


def test_of_two_evaluators_of_one_name_the_later_one_evaluates(tmp_path: Path) -> None:
    args = ["test", "--data=Digits", "--trainer.accelerator=cpu", "--model=Supervised"]
    args.append("--model.student={name: cifar_resnet20.digits, pretrained: true}")
    found = []
    for ks in ((3, 700), (700,), (3,)):
        evaluators = [f"--trainer.callbacks+={{class_path: KNN, init_args: {{k: {k}}}}}" for k in ks]
        found.append(main([*args, *evaluators]).trainer.callback_metrics["test/knn"])
    assert found[0] == found[1] != found[2]


def test_an_evaluator_that_fails_loses_nothing(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    short = ["fit", *ARGS, f"--run.output_dir={tmp_path}", "--run.wandb=off", "--trainer.max_epochs=1"]
    many = "--trainer.callbacks=[{class_path: FewShot, init_args: {shots: 500}}]"
    with pytest.raises(SystemExit):
        main([*short, many])
    assert not [*tmp_path.rglob("config.yaml")]  # refused before a run is opened
    none = f"--trainer.callbacks=[{{class_path: {__name__}.Fails}}]"
    main([*short, none])
    (path,) = tmp_path.rglob(results.FILE)
    assert "test/acc" in json.loads(path.read_text())["metrics"]
    assert any(
        "Fails is skipped, because of an error: nothing can be said" in str(warning.message) for warning in recwarn
    )


class Fails(Evaluator):
    def evaluate(self, view: NetworkView) -> EvaluationResult:
        raise ConfigError("nothing can be said")


def test_runs_that_test_nothing_have_results_too(tmp_path: Path) -> None:
    main(
        [
            "fit",
            *ARGS,
            f"--run.output_dir={tmp_path}",
            "--run.wandb=off",
            "--trainer.max_epochs=1",
            "--protocol.test=false",
        ]
    )
    (path,) = tmp_path.rglob(results.FILE)
    found = json.loads(path.read_text())
    assert not [key for key in found["metrics"] if key.startswith("test/")]
    assert found["metrics"]["val/acc"] == found["last"]["val/acc"]
    assert not (path.parent / results.PREDICTIONS).exists()


def test_what_is_no_number_is_null_and_what_was_there_stays(tmp_path: Path) -> None:
    found = {"schema": 3, "run": {}, "protocol": {"evaluated": "now"}, "data": {"name": "d"}, "seconds": 3.0}
    found |= {"metrics": {"a": math.nan, "b": 1.0}, "details": {}, "evaluators": {}, "evaluator_seconds": {}}
    results.record(tmp_path, found, {})
    results.record(tmp_path, found | {"seconds": None, "metrics": {"b": 2.0}, "details": {"x": [math.inf]}}, {})
    assert json.loads((tmp_path / results.FILE).read_text()) == {
        **found,
        "metrics": {"a": None, "b": 2.0},
        "details": {"x": [None]},
    }


def test_the_code_is_named() -> None:
    said = code()
    assert torch.__version__.startswith(said["torch"])
    if (ROOT / ".git").exists():
        assert len(said["commit"]) >= 7
        assert said["changed"] in (True, False)
