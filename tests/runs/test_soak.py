"""2,000 steps of a run: memory, open files and the time of a step stay where they were."""

import json
import os
import statistics
import time
from pathlib import Path

import psutil
import pytest
from helpers import processes
from lightning.pytorch import Callback, LightningModule, Trainer

STEPS = 2000
ARGS = ["--model=SEED", "--model.queue_size=1000", "--model.teacher.name=cifar_resnet20.digits", "--data=Digits"]
ARGS += ["--model.teacher.pretrained=true", "--model.student.name=cifar_resnet8", "--data.batch_size=50"]
ARGS += ["--model.student.model_kwargs={channels: [4, 4, 8, 16]}", "--run.wandb=offline", "--trainer.callbacks+=EMA"]


class Soak(Callback):
    """Notes, every 50 steps, this process's memory, its open files, and the median time of a step since."""

    def __init__(self) -> None:
        self.found: list[tuple[int, int, int, float]] = []
        self.times: list[float] = []
        self.began = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        self.times.append(time.perf_counter() - self.began)
        if trainer.global_step % 50 == 0:
            here = psutil.Process()
            said = (trainer.global_step, here.memory_info().rss, here.num_fds(), statistics.median(self.times))
            self.found, self.times = [*self.found, said], []

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Path(os.environ["SOAK"]).write_text(json.dumps(self.found))


@pytest.mark.slow
def test_nothing_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOAK", str(tmp_path / "soak.json"))
    monkeypatch.syspath_prepend(Path(__file__).parent)
    more = ["--trainer.callbacks+=test_soak.Soak", f"--trainer.max_steps={STEPS}", "--protocol.every_n_steps=100"]
    assert processes.fit(tmp_path, [*ARGS, *more], name="a", epochs=-1) == 0, (tmp_path / "a.log").read_text()
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found[-1][0] == STEPS
    for part in range(4):
        steps, memory, files, seconds = zip(*found[part * 10 : part * 10 + 10], strict=True)
        print(
            f"steps to {steps[-1]}: {statistics.median(memory) / 2**20:.1f} MiB, {statistics.median(files):.0f} files, "
            f"{statistics.median(seconds) * 1000:.2f} ms a step"
        )
    memory, files = ([one[place] for one in found] for place in (1, 2))
    assert max(files[10:]) == max(files[:10])
    assert max(memory[20:]) < max(memory[:20]) + 8 * 2**20
