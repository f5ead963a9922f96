"""Made-up finished runs on the digits, with checkpoints and without a teacher, for tests of export."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from helpers import fake_runs as reports
from helpers.factories import digits
from kd_lightning.cli import main
from kd_lightning.models import Network

PIXELS = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SMALL = {"name": "cifar_resnet8", "model_kwargs": {"channels": [4, 4, 8, 16]}}


def finished(folder: Path, student: dict[str, Any] = SMALL, *, method: str = "KD", unfinished: bool = False) -> Path:
    """Return a run's folder whose student has random weights and whose teacher's weights are missing."""
    there = reports.write_run(folder, "kd")
    torch.manual_seed(0)
    network = Network(student["name"], num_classes=10, model_kwargs=student["model_kwargs"])
    for each in network.model.modules():  # eval mode uses these statistics
        if isinstance(each, torch.nn.BatchNorm2d):
            each.running_mean.normal_(0, 0.1)
            each.running_var.uniform_(0.5, 2)
    facts = {**network.facts(), "class_names": digits().class_names}
    for name, factor in (("best.ckpt", 1.0), ("last.ckpt", 1.1)):
        state = {f"student.model.{key}": value for key, value in network.model.state_dict().items()}
        last = [key for key in state if key.endswith(".weight")][-1]
        torch.save({"state_dict": {**state, last: factor * state[last]}, "network": facts}, there / name)
    config = reports.config(method, "kd", 0)
    teacher = {"name": "cifar_resnet20", "checkpoint": f"{folder}/gone.safetensors"}
    arguments = {"student": student, "teacher": teacher}
    config["model"] = {"class_path": f"kd_lightning.methods.{method}", "init_args": arguments}
    (there / "config.yaml").write_text(yaml.safe_dump(config))
    if unfinished:
        (there / "results.json").unlink()
    return there


def refusal(args: list[str], capfd: pytest.CaptureFixture, status: int = 2) -> str:
    """Return the one-line error of an export that fails."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["export", *args])
    assert stopped.value.code == status
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]
