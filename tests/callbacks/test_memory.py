"""Memory that is used up: one line with what held it and what to try."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_lightning import methods
from kd_lightning.batch import Batch
from kd_lightning.callbacks.memory import explained, is_out_of_memory
from kd_lightning.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"
KD = f"--config={CONFIGS / 'digits/kd.yaml'}"
ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB."),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "python": MemoryError(),
}


class Greedy(methods.KD):
    """Has no memory left in one step, or in evaluation.

    Args:
        error: which error says so.
        at: the step; -1: evaluation.
        **kwargs: as for KD.
    """

    def __init__(self, *, error: str = "cuda", at: int = 1, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.error, self.at = error, at

    def training_terms(self, batch: Batch) -> dict[str, Tensor]:
        if self.trainer.global_step == self.at:
            raise ERRORS[self.error]
        return super().training_terms(batch)

    def evaluate(self, batch: Batch, stage: str) -> Any:
        if self.at == -1:
            raise ERRORS[self.error]
        return super().evaluate(batch, stage)


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture):
    """The one line of a run that ends for want of memory."""
    monkeypatch.syspath_prepend(Path(__file__).parent)

    def run(*args: str) -> str:
        for error in ERRORS.values():
            vars(error).pop("__notes__", None)
        fixed = [
            "--trainer.accelerator=cpu",
            "--run.wandb=off",
            f"--run.output_dir={tmp_path}",
            "--trainer.max_epochs=1",
        ]
        with pytest.raises(SystemExit) as stopped:
            main(["fit", KD, "--model=test_memory.Greedy", "--trainer.enable_progress_bar=false", *fixed, *args])
        assert stopped.value.code == 1
        said = capfd.readouterr().err
        assert "Traceback" not in said
        (found,) = (line for line in said.splitlines() if line.startswith("error: "))
        return found

    return run


@pytest.mark.parametrize("error", ERRORS)
def test_it_says_what_holds_the_memory_and_what_to_try(line, error: str) -> None:
    student = "{name: cifar_resnet20, model_kwargs: {channels: [16, 16, 32, 64]}}"
    said = line(f"--model.error={error}", "--data.batch_size=100", f"--model.student={student}")
    for part in (
        "out of memory: in epoch 1, step 2, 100 images per batch",
        "the teacher 1.0 MiB",
        "the student and the additional layers (heads) 1.0 MiB",
        "the gradients 1.0 MiB",
        "the optimizer 1.0 MiB",
        "images 0.7 MiB",
        "data.batch_size 50 with trainer.accumulate_grad_batches 2",
        "trainer.precision bf16-mixed",
        "model.teacher.dtype bfloat16",
    ):
        assert part in said, said


def test_what_is_done_already_is_not_advised(line) -> None:
    said = line("--trainer.precision=bf16-true", "--data.batch_size=1", "--trainer.accumulate_grad_batches=4")
    for part in ("trainer.precision", "model.teacher.dtype", "data.batch_size", "memory_limit", "What may help"):
        assert part not in said, said
    said = line("--model.teacher.dtype=bfloat16")
    assert "What may help: data.batch_size" in said
    assert "model.teacher.dtype" not in said
    assert "data.global_batch_size 30 with trainer.accumulate_grad_batches 2" in line("--data.global_batch_size=60")


def test_in_evaluation(line) -> None:
    said = line("--model.at=-1", "--data.eval_batch_size=200")
    assert "200 images per batch" in said
    assert "What may help: data.eval_batch_size 100;" in said
    assert "in epoch" not in said
    assert "eval_batch_size" not in line("--model.at=-1", "--data.eval_batch_size=1")


def test_other_errors_are_others() -> None:
    assert all(map(is_out_of_memory, ERRORS.values()))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert explained(ValueError("out of memory")) is None
    wrapped = ValueError("Does not validate")  # as jsonargparse raises it if a constructor fails
    wrapped.__context__ = RuntimeError("can't allocate memory: you tried to allocate 6400000000000 bytes")
    assert "out of memory: can't allocate memory: you tried" in str(explained(wrapped))
    line = str(explained(torch.OutOfMemoryError("CUDA out of memory.\nmore")))
    assert line == "out of memory: CUDA out of memory. more"


@pytest.mark.slow
def test_memory_that_is_really_used_up(tmp_path: Path) -> None:
    limited = (
        "import resource, sys; import kd_lightning.cli.app; from kd_lightning.cli import main\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**30,) * 2)\n"
        "main(sys.argv[1:])"
    )
    args = ["fit", KD, "--data.batch_size=1000", "--run.wandb=off"]
    args.append("--model.student={name: resnet50, size: 96, model_kwargs: {channels: [64, 128, 256, 512]}}")
    args += [f"--run.output_dir={tmp_path}", "--trainer.accelerator=cpu"]
    command = [sys.executable, "-c", limited, *args]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "error: out of memory: in epoch 1, step 1, 1000 images per batch (cpu" in ended.stderr
