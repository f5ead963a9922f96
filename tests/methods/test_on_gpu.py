"""Every method on a GPU: values of a step in half precision, waits for the device, the compiled step, two GPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.factories import EVERY_METHOD, METHODS, VIEWS, digits, method, trainer
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import load_file
from test_precision import build, every_case, real, step
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.callbacks import NonFiniteGuard, Progress, Speed
from kd_lightning.distillation import Distiller, StudentModule

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and torch finds none"),
]
LOGGED = 5
"""Number of steps between two that are logged."""
STUDENT = (
    "{name: vit_tiny_patch16_224, model_kwargs: {img_size: 8, patch_size: 4, embed_dim: 24, depth: 2, num_heads: 2}}"
)
"""A student without BatchNorm, whose statistics would depend on the number of GPUs."""


def cosine(found: list[Tensor], expected: list[Tensor]) -> float:
    found, expected = (torch.cat([one.flatten().double().cpu() for one in each]) for each in (found, expected))
    return torch.nn.functional.cosine_similarity(found, expected, dim=0).item()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@every_case
def test_a_step_has_the_values_and_the_direction_of_the_cpus(case: str, precision: str) -> None:
    exact = step(build(case, trained=True), real(), "32-true")
    found = step(build(case, trained=True), real(), precision, DEVICE)
    single = precision == "32-true"
    assert found.terms == pytest.approx(exact.terms, rel=1e-3 if single else 0.02)
    assert len(found.gradients) == len(exact.gradients)
    assert cosine(found.gradients, exact.gradients) > (0.999 if single else 0.9)


class Watched(Callback):
    """Makes torch raise an error at each wait for the GPU between the end of a training batch and the end of the next.

    The batches that are logged are left out.
    """

    def __init__(self) -> None:
        self.seen = 0

    def on_train_batch_end(
        self, trainer: object, pl_module: StudentModule, outputs: object, batch: Batch, number: int
    ) -> None:
        self.seen += torch.cuda.get_sync_debug_mode() == 2
        torch.cuda.set_sync_debug_mode("error" if number < LOGGED - 2 else "default")


@pytest.mark.parametrize("kind", EVERY_METHOD)
def test_no_step_between_two_logged_ones_waits_for_the_gpu(kind: type[StudentModule], tmp_path: Path) -> None:
    watched, built = Watched(), method(kind, **({"check_teacher": False} if issubclass(kind, Distiller) else {}))
    logged = {"logger": CSVLogger(tmp_path), "log_every_n_steps": LOGGED, "limit_train_batches": LOGGED}
    run = trainer(tmp_path, Progress(), watched, enable_progress_bar=True, accelerator="gpu", devices=1, **logged)
    try:
        run.fit(built, datamodule=digits(batch_size=10, val_split=0))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert watched.seen == LOGGED - 2


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("kind", EVERY_METHOD)
def test_it_trains_with_the_guard(kind: type[StudentModule], precision: str, tmp_path: Path) -> None:
    built = method(kind)
    before = {name: value.clone() for name, value in built.student.state_dict().items()}
    settings = {"accelerator": "gpu", "devices": 1, "precision": precision, "limit_train_batches": 3}
    run = trainer(tmp_path, NonFiniteGuard(), **settings)
    run.fit(built, digits())
    assert all(torch.isfinite(value) for value in run.callback_metrics.values())
    assert any(not torch.equal(value.cpu(), before[name]) for name, value in built.student.state_dict().items())


@every_case
def test_the_compiled_step_has_the_values_of_the_step(case: str, recwarn: pytest.WarningsRecorder) -> None:
    plain = step(build(case, trained=True), real(), "32-true", DEVICE)
    built = build(case, trained=True)
    Speed(compile="default").apply(built)
    compiled = step(built, real(), "32-true", DEVICE)
    assert not [warning for warning in recwarn if "compilation failed" in str(warning.message)]
    assert compiled.terms == pytest.approx(plain.terms, rel=1e-3)
    assert cosine(compiled.gradients, plain.gradients) > 0.999


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("kind", METHODS)
def test_two_gpus_end_where_one_does(kind: type[StudentModule], tmp_path: Path) -> None:
    args = [f"--model={kind.__name__}", f"--model.student={STUDENT}", "--data=Digits", "--data.global_batch_size=48"]
    args += [
        f"--data.views={VIEWS}",
        "--data.max_train_samples=300",
        "--model.optimizer=SGD",
        "--model.optimizer.lr=0.01",
    ]
    args += ["--trainer.max_epochs=1", "--trainer.accelerator=gpu", "--trainer.enable_progress_bar=false"]
    args += [f"--run.output_dir={tmp_path}", "--run.name=run", "--run.wandb=off"]
    if issubclass(kind, Distiller):
        args.append("--model.teacher={name: cifar_resnet20.digits, pretrained: true}")
    found = []
    for devices in (1, 2):
        command = [sys.executable, "-m", "kd_lightning", "fit", *args, f"--trainer.devices={devices}"]
        command += [f"--run.id={devices}"]
        ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, check=False, timeout=500)
        assert ended.returncode == 0, ended.stderr[-2000:]
        (path,) = tmp_path.rglob(f"{devices}/student.safetensors")
        found.append(torch.cat([value.flatten().double() for value in load_file(path).values()]))
    assert (found[1] - found[0]).norm() < 1e-3 * found[0].norm()
