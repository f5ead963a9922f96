"""Results do not depend on the batch size of the evaluation, nor on the number of processes that share the images."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.factories import digits, method, trainer, with_weights

from kd_lightning.callbacks import TeacherAgreement
from kd_lightning.data import RandomImages
from kd_lightning.evaluation import (
    KNN,
    Classification,
    Corruptions,
    Evaluator,
    Faithfulness,
    LinearProbe,
    MembershipInference,
    OutOfDistribution,
    Retrieval,
)
from kd_lightning.evaluation.network_view import group_size
from kd_lightning.methods import KD, SimReg

VIT = {"img_size": 8, "patch_size": 4, "depth": 2, "num_heads": 2}
STUDENT = f"{{name: vit_tiny_patch16_224, model_kwargs: {json.dumps({**VIT, 'embed_dim': 24})}}}"
NOT_RESULTS = ("id", "seconds", "evaluated", "evaluator_seconds", "changed", "commit")
"""Names of the fields of results.json that differ between two runs: name, times, and the state of the code."""


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all values of results.json with their names."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in NOT_RESULTS and "latency" not in str(key) and "images_per_second" not in str(key):
                yield from numbers(inner, f"{name}/{key}")
    else:
        yield name, value


def differences(found: Any, expected: Any) -> list[str]:
    """Return the names and values that differ by more than 1e-6."""
    found, expected = (dict(numbers(value)) for value in (found, expected))
    assert found.keys() == expected.keys()
    return [f"{name}: {found[name]} and {value}" for name, value in expected.items() if found[name] != near(value)]


def near(value: Any) -> Any:
    return pytest.approx(value, rel=1e-6, abs=1e-6, nan_ok=True) if isinstance(value, float) else value


def evaluators() -> list[Evaluator]:
    """Evaluators that are quick; the others use the same embeddings."""
    return [
        *(Classification(), Faithfulness(k=[5], batch_size=50), Retrieval(), KNN(k=[5, 20])),
        *(LinearProbe(solver="sgd", epochs=1), OutOfDistribution(data=[RandomImages(images=101, size=8)])),
        Corruptions(names=["contrast"], severities=[5], images=101, teacher=False),
        MembershipInference(teacher=True, every_n_epochs=1),
    ]


@pytest.mark.example
@pytest.mark.parametrize("kind", [KD, SimReg])
def test_the_batch_size_of_the_evaluation_changes_no_result(kind: type, tmp_path: Path) -> None:
    """The embedding of this student differs in the last digit between batches of 7 and of 64 images."""
    torch.manual_seed(0)
    student = with_weights(tmp_path, "mobilenetv3_small_050")
    built = method(kind, student=student, **({"ce_weight": 0.0} if kind is SimReg else {}))
    found = []
    for size in (7, 1000):
        run = trainer(tmp_path, TeacherAgreement(), *(evaluators() if kind is KD else [KNN()]))
        data = digits(eval_batch_size=size)
        data.checks += [each.prepare for each in run.callbacks if isinstance(each, Evaluator)]
        run.validate(built, data, verbose=False)
        values = {name: value.item() for name, value in run.callback_metrics.items()}
        run.test(built, data, verbose=False)
        values |= {name: value.item() for name, value in run.callback_metrics.items()}
        details = [each.result.details for each in run.callbacks if isinstance(each, Evaluator)]
        found.append({"values": values, "details": details})
    assert {"val/cosine", "test/neighbors"} <= {*values} if kind is SimReg else {"val/ce", "test/nll"} <= {*values}
    assert len(values) > (15 if kind is KD else 4)
    assert not differences(*found)


def test_a_group_of_images_has_a_bounded_number_of_pixels() -> None:
    assert [group_size(side) for side in (8, 32, 96, 224, 384, 518, 2048)] == [256, 256, 256, 83, 28, 15, 8]
    assert group_size(32, None, 224) == 83


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["KD", "SEED"])
def test_one_two_and_three_processes_write_the_same_results(name: str, tmp_path: Path) -> None:
    """The student does not change (learning rate 0): training is equal up to rounding, see test_two_processes."""
    noise = "{class_path: RandomImages, init_args: {images: 101, size: 8}}"
    added = ["KNN", "LinearProbe", "FewShot", "Retrieval", "{class_path: Transfer, init_args: {to: [Digits]}}"]
    added += ["{class_path: LinearProbe, init_args: {solver: sgd, epochs: 3}}"]
    added += ["{class_path: MembershipInference, init_args: {teacher: true}}"]
    added += [f"{{class_path: OutOfDistribution, init_args: {{data: [{noise}]}}}}", "EMA"]
    added += ["{class_path: Corruptions, init_args: {names: [contrast], severities: [5], images: 101}}"]
    args = [f"--model={name}", "--data=Digits", "--data.max_train_samples=300", "--data.global_batch_size=48"]
    args += ["--model.teacher={name: cifar_resnet20.digits, pretrained: true}", f"--model.student={STUDENT}"]
    args += ["--model.optimizer=SGD", "--model.optimizer.lr=0", "--model.ce_weight=0"]
    args += ["--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"]
    args += ["--model.queue_size=128"] * (name == "SEED")  # its head has no BatchNorm, unlike that of SimReg
    args += [f"--trainer.callbacks+={each}" for each in added]
    args += [f"--run.output_dir={tmp_path}", "--run.name=run", "--run.wandb=off"]
    found = {}
    for devices, size in ((1, 64), (2, 1000), (3, 7)):
        command = [sys.executable, "-m", "kd_lightning", "fit", *args, f"--trainer.devices={devices}"]
        command += [f"--data.eval_batch_size={size}", f"--run.id={devices}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=500)
        assert ended.returncode == 0, ended.stderr[-2000:]
        (path,) = tmp_path.rglob(f"{devices}/results.json")
        found[devices] = json.loads(path.read_text())
    assert len(dict(numbers(found[1]))) > 100
    for devices in (2, 3):
        assert not differences(found[devices], found[1]), devices
