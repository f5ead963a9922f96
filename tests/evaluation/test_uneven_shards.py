"""Accuracy over shares of different sizes, in as many processes, is the accuracy of one process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision.utils import save_image

from kd_lightning.models import Network, checkpoints


@pytest.mark.slow
def test_one_two_and_three_processes_agree_exactly(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, count in (("cat", 53), ("dog", 48)):  # 101 images: no two or three shares are equal
        for split in ("train", "test"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for number in range(count):
                save_image(
                    torch.rand((3, 8, 8), generator=generator), tmp_path / "pets" / split / name / f"{number}.png"
                )
    torch.manual_seed(0)
    network = Network("cifar_resnet8", num_classes=2)
    checkpoints.write(tmp_path / "student.safetensors", network.model.state_dict(), network.facts())
    student = f"{{name: cifar_resnet8, checkpoint: {tmp_path / 'student.safetensors'}}}"
    args = ["test", "--data=ImageFolder", f"--data.path={tmp_path / 'pets'}", "--data.eval_batch_size=16"]
    args += ["--data.batch_size=16"]
    args += ["--model=Supervised", f"--model.student={student}", "--trainer.accelerator=cpu"]
    found = []
    for devices in (1, 2, 3):
        command = [sys.executable, "-m", "kd_lightning", *args, f"--trainer.devices={devices}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=300)
        found.append(re.search(r"test/acc\W+([\d.]+)", ended.stdout)[1])
    assert len({*found}) == 1
    assert 0.2 < float(found[0]) < 0.8
