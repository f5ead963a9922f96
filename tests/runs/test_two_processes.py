"""A whole `fit` by two processes is that of one at the same global batch, and moves the student's bytes alone."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from kd_lightning.batch import Batch
from kd_lightning.callbacks.protocol import LastCheckpoint, Protocol

TRAINER = Path(__file__).parents[2] / "configs/trainer"
STUDENT = (
    "{name: vit_tiny_patch16_224, model_kwargs: {img_size: 8, patch_size: 4, embed_dim: 24, depth: 2, num_heads: 2}}"
)
ARGS = ["--data=Digits", "--data.global_batch_size=48", "--data.max_train_samples=300", "--trainer.max_epochs=2"]
ARGS += ["--model.teacher={name: cifar_resnet20.digits, pretrained: true}", f"--model.student={STUDENT}"]
ARGS += ["--model.optimizer=SGD", "--model.optimizer.lr=0.01", "--model.lr_batch_size=24", "--trainer.accelerator=cpu"]
ARGS += ["--trainer.sync_batchnorm=false"]
ARGS += ["--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1", "--run.wandb=off", "--run.id=run"]


class RunStatus(Callback):
    """Keeps what a process sees, and how many bytes DistributedDataParallel moves."""

    def __init__(self, folder: str) -> None:
        self.folder, self.steps, self.gradients, self.buffers = Path(folder), [], [], 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            wrapped = trainer.strategy.model
            self.buffers = sum(buffer.nbytes for buffer in wrapped.modules_buffers)
            wrapped.register_comm_hook(self, _mean)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self.steps.append((batch.indices, batch.images))
        self.gradients.append(0)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trained = [p for p in pl_module.parameters() if p.requires_grad]
        found = {
            "steps": self.steps,
            "gradients": self.gradients,
            "buffers": self.buffers,
            "own_buffers": sum(buffer.nbytes for buffer in pl_module.student.buffers()),
            "trained": sum(p.nbytes for p in trained),
            "weights": torch.cat([p.detach().flatten() for p in trained]),
            "queue": getattr(pl_module, "queue", torch.zeros(0)),
            "places": [str(c.selected if isinstance(c, Protocol) else c.path) for c in _with_a_place(trainer)],
            "rate": trainer.optimizers[0].param_groups[0]["initial_lr"],
        }
        torch.save(found, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def _with_a_place(trainer: Trainer) -> list[Protocol | LastCheckpoint]:
    return [callback for callback in trainer.callbacks if isinstance(callback, Protocol | LastCheckpoint)]


def _mean(watch: RunStatus, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
    watch.gradients[-1] += bucket.buffer().nbytes
    whole = torch.distributed.all_reduce(bucket.buffer() / torch.distributed.get_world_size(), async_op=True)
    return whole.get_future().then(lambda done: done.value()[0])


def started(folder: Path, launcher: list[str], *args: str, **environment: str) -> subprocess.Popen:
    """`fit` in a process of its own."""
    watch = f"--trainer.callbacks={{class_path: test_two_processes.RunStatus, init_args: {{folder: {folder}}}}}"
    command = [*launcher, "-m", "kd_lightning", "fit", *args, *ARGS, watch, f"--run.output_dir={folder}"]
    known = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)} | environment
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=known)


def ended(process: subprocess.Popen) -> str:
    """What it printed."""
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return printed


def one_folder(folder: Path) -> set[str]:
    """What is in the folder of the only run."""
    (run,) = {path.parent for path in folder.rglob("*") if path.is_file() and path.parent != folder}
    return {path.name for path in run.iterdir()}


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(["SEED", "--model.queue_size=128"], id="SEED", marks=pytest.mark.e2e),
        pytest.param(["SP"], id="SP", marks=pytest.mark.slow),
        pytest.param(["STKD"], id="STKD", marks=pytest.mark.slow),
    ],
)
def test_one_and_two_processes_end_alike(tmp_path: Path, method: list[str]) -> None:
    found: dict[int, list[dict[str, Any]]] = {}
    for world in (1, 2):
        folder = tmp_path / str(world)
        folder.mkdir()
        shipped = [f"--config={TRAINER / 'ddp.yaml'}"] * (world == 2)
        printed = ended(started(folder, [sys.executable], *shipped, "--model", *method, f"--trainer.devices={world}"))
        found[world] = [torch.load(folder / f"{world}-{rank}.pt") for rank in range(world)]
        assert ("24 on each of 2 devices: 48 per step" in printed) == (world == 2)
    alone, both = found[1][0], found[2]
    assert alone["rate"] == both[0]["rate"] == pytest.approx(0.02)
    for step, (indices, images) in enumerate(alone["steps"]):
        for rank, one in enumerate(both):
            assert torch.equal(one["steps"][step][0], indices[rank::2])
            assert torch.equal(one["steps"][step][1], images[rank::2])
    for one in both:
        assert (one["weights"] - alone["weights"]).norm() < 1e-5 * alone["weights"].norm()
        torch.testing.assert_close(one["queue"], alone["queue"])
        assert torch.equal(one["queue"], both[0]["queue"])
        assert torch.equal(one["weights"], both[0]["weights"])
        assert {*one["gradients"]} == {one["trained"]}
        assert one["buffers"] == one["own_buffers"]  # the student's; the teacher's and the queue stay where they are
    assert one_folder(tmp_path / "2") >= {"config.yaml", "metrics.csv", "last.ckpt", "student.safetensors"}


@pytest.mark.slow
def test_torchrun_writes_one_folder(tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    printed = ended(started(tmp_path, launcher, "--model=SP", "--trainer.devices=2", "--run.id=null"))
    assert printed.count("test/acc") == 1
    first, second = (torch.load(tmp_path / f"2-{rank}.pt")["places"] for rank in range(2))
    assert first == second
    assert len(first) == 2
    assert one_folder(tmp_path) >= {"config.yaml", "metrics.csv", "last.ckpt", "student.safetensors"}


@pytest.mark.slow
def test_slurm_starts_a_process_a_device(tmp_path: Path) -> None:
    """As srun sets the environment for two machines with a device each."""
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1"}
    job |= {"SLURM_NNODES": "2", "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": "29713", "SLURM_LOCALID": "0"}
    args = [f"--config={TRAINER / 'slurm.yaml'}", "--model=SP", "--trainer.devices=1", "--trainer.precision=32"]
    ranks = [
        started(tmp_path, [sys.executable], *args, "--run.id=null", **job, SLURM_PROCID=rank, SLURM_NODEID=rank)
        for rank in ("0", "1")
    ]
    printed = [ended(rank) for rank in ranks]
    assert "24 on each of 2 devices: 48 per step" in printed[0]
    assert "test/acc" not in printed[1]
    assert one_folder(tmp_path) >= {"config.yaml", "metrics.csv", "last.ckpt", "student.safetensors"}
