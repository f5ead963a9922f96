"""A fast script that writes the files of `fit`. Its config sets whether it fails, sleeps or ignores SIGTERM."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kd_lightning.commands.repeat import plan

FAKE = """
import json, os, pathlib, signal, sys, time, zipfile, yaml

def read(argv):
    args = dict(arg[2:].split("=", 1) for arg in argv if arg.startswith("--") and "=" in arg)
    content = yaml.safe_load(pathlib.Path(argv[argv.index("--config") + 1]).read_text())
    for name, value in args.items():
        part = content
        *groups, last = name.split(".")
        for group in groups:
            part = part.setdefault(group, {})
            part = part.get("init_args", part)
        part[last] = yaml.safe_load(value)
    return content, args

if sys.argv[1] == "resolve":
    read_all = [read(argv) for argv in json.load(sys.stdin)]
    answers = [{"config": "# a comment\\n" + yaml.safe_dump(content), "notices": []} for content, _ in read_all]
    if "--build" in sys.argv:
        for answer, (content, _) in zip(answers, read_all):
            high = content["model"]["init_args"]["temperature"] > 90
            answer["refusal"] = "temperature: it is too high" * high
            weights = content["model"]["init_args"].get("checkpoint", "")
            if weights and not os.path.exists(weights):
                answer["refusal"] = f"model.teacher.checkpoint: {weights} does not exist"
    wrong = [{"error": "typo is not a field"} for _, args in read_all if "typo" in args]
    print(json.dumps(wrong or answers))
    sys.exit()
content, args = read(sys.argv)
run, seed = content["run"], content["seed_everything"]
name = (run["name"] or "kd-s{seed}").replace("{seed}", str(seed))
folder = pathlib.Path(run["output_dir"], run["project"], name, run["id"])
folder.mkdir(parents=True)
(folder / "config.yaml").write_text(yaml.safe_dump(content))
(folder / "environment.json").write_text(json.dumps(dict(os.environ)))
(folder / "began").write_text(str(time.time()))
print("fit says: step", flush=True)
fake = content.get("fake", {})
if fake.get("checkpoint"):
    with zipfile.ZipFile(folder / "last.ckpt", "w") as file:
        file.writestr("data.pkl", "")
if seed in fake.get("fails", []):
    print("noise\\nerror: the loss is nan\\nlast words", file=sys.stderr)
    sys.exit(1)
if fake.get("stubborn"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "ckpt_path" not in args:
    time.sleep(fake.get("sleep", 0))
if seed not in fake.get("silent", []):
    metrics = {fake.get("select", "test/acc"): 0.5 + seed / 100}
    (folder / "results.json").write_text(json.dumps({"schema": 3, "seconds": 90.0, "metrics": metrics}))
(folder / "ended").write_text(str(time.time()))
"""


def install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the script into a folder and let `repeat` run it instead of `fit`."""
    script = path / "fake.py"
    script.write_text(FAKE)
    monkeypatch.setattr(plan, "FIT", (sys.executable, str(script), "fit"))
    monkeypatch.setattr(plan, "RESOLVE", (sys.executable, str(script), "resolve"))


def write(path: Path, name: str, *, trainer: dict | None = None, data: dict | None = None, **more: Any) -> str:
    """Write a config for the script, in the form of `fit --print_config`, and return its path."""
    trainer = {
        "accelerator": "cpu", "devices": "auto", "max_epochs": 3, "max_steps": -1, "limit_train_batches": None,
        "accumulate_grad_batches": 1, **(trainer or {}),
    }  # fmt: skip
    data = {"class_path": "Digits", "init_args": {"batch_size": 8, "val_split": 0.1, "split_seed": 0, **(data or {})}}
    content = {"seed_everything": 0, "trainer": trainer, "data": data, "protocol": {"select": None}}
    content["model"] = {"class_path": "kd_lightning.methods.KD", "init_args": {"temperature": 4.0}}
    content["run"] = {"project": "p", "name": f"{name}-s{{seed}}", "output_dir": str(path / "runs"), "id": None}
    file = path / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**content, **more}))
    return str(file)


def folders(path: Path) -> list[str]:
    return sorted(str(p.parent.relative_to(path / "runs/p")) for p in path.glob("runs/p/*/*/config.yaml"))


def began(path: Path) -> list[str]:
    """Return the names of the runs in the order of their start."""
    files = sorted(path.glob("runs/p/*/*/began"), key=lambda file: float(file.read_text()))
    return [file.parent.parent.name for file in files]
