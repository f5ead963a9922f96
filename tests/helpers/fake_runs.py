"""Made-up finished runs on the digits: folders with the files that `fit` and its evaluators write."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from kd_lightning.data import Digits
from kd_lightning.io.atomic import write_tensors

METHODS = {"baseline": ("Supervised", 0.90), "kd": ("KD", 0.93), "sp": ("SP", 0.95), "stkd": ("STKD", 0.91)}
TEACHER = 0.97


def write_run(folder: Path, name: str = "kd", seed: int = 0, *, data: str = "digits", **changed: Any) -> Path:
    """Write a run's folder, `<folder>/digits/<name>-s<seed>/a`, with the values of `changed` in its results.json.

    Metrics are those of METHODS plus noise, which is a function of the method and the seed.
    """
    method, level = METHODS.get(name, ("KD", 0.92))
    noise = np.random.default_rng([seed, *name.encode()])
    there = folder / "digits" / f"{name}-s{seed}" / "a"
    there.mkdir(parents=True)
    teacher = None if method == "Supervised" else "cifar_resnet20.digits"
    metrics = _metrics(level + noise.normal(0, 0.004), noise, has_teacher=teacher is not None)
    results = {
        "schema": 3,
        "run": {
            "project": "digits",
            "name": f"{name}-s{seed}",
            "id": "a",
            "group": "digits/t-s",
            "method": method,
            "seed": seed,
            "teacher": teacher,
            "teacher_fingerprint": "f00d" if teacher else None,
            "student": "cifar_resnet8",
        },
        "code": {
            "version": "0.1.0",
            "commit": "3ceaa6b",
            "changed": False,
            "torch": "2.9",
            "timm": "1",
            "lightning": "2",
        },
        "data": {
            "name": data,
            "classes": 10,
            "class_names": [str(n) for n in range(10)],
            "train": 1293,
            "val": 144,
            "test": 360,
            "side": 32,
        },
        "protocol": {
            "select": "best",
            "checkpoint": "best.ckpt",
            "epoch": 4 - seed % 2,
            "step": 100,
            "max_epochs": 6,
            "evaluated": f"2026-01-0{seed + 1}T10:00:00",
        },
        "seconds": 180 + 10 * noise.random(),
        "metrics": metrics,
        "details": _details(metrics["test/acc"], noise),
    }
    for key, value in changed.items():
        section, _, field = key.partition("__")
        if field:
            results[section] = {**results[section], field: value}
        else:
            results[section] = value
    (there / "results.json").write_text(json.dumps(results))
    (there / "config.yaml").write_text(yaml.safe_dump(config(method, name, seed), sort_keys=False))
    (there / "metrics.csv").write_text(_history(metrics["val/acc"], noise))
    return there


def write_runs(
    folder: Path, names: tuple[str, ...] = (*METHODS,), seeds: int = 3, *, predictions: bool = False
) -> Path:
    """Write the runs of several methods and seeds, and return the folder that contains them."""
    for name in names:
        for seed in range(seeds):
            there = write_run(folder, name, seed)
            if predictions:
                write_predictions(there, seed, wrong=10 + 7 * list(names).index(name))
    return folder


def config(method: str, name: str, seed: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {"student": {"name": "cifar_resnet8"}, "lr_scaling": "linear"}
    if method != "Supervised":
        arguments |= {"teacher": {"name": "cifar_resnet20.digits", "pretrained": True}, "check_teacher": True}
    arguments |= {"KD": {"temperature": 4.0}, "SP": {"sp_weight": 3000.0}}.get(method, {})
    return {
        "schema": 3,
        "seed_everything": seed,
        "trainer": {"max_epochs": 6, "precision": "32-true", "accelerator": "auto", "callbacks": []},
        "model": {"class_path": f"kd_lightning.methods.{method}", "init_args": arguments},
        "data": {
            "class_path": "kd_lightning.data.Digits",
            "init_args": {"batch_size": 64, "val_split": 0.1, "augmentations": None, "split_seed": 0},
        },
        "run": {"project": "digits", "name": f"{name}-s{{seed}}", "output_dir": f"/machine{seed}/runs", "id": "a"},
        "protocol": {"select": None, "test": True},
        "ckpt_path": None,
    }


def write_predictions(folder: Path, seed: int, wrong: int) -> None:
    """Write predictions for the digits' test images; the first `wrong` + `seed` images get the next class."""
    data = Digits()
    data.setup("test")
    images = data.datasets["test"]
    said = images.labels.clone()
    said[: wrong + seed] = (said[: wrong + seed] + 1) % 10
    tensors = {
        "labels": images.labels,
        "indices": images.indices,
        "prediction": said,
        "confidence": torch.linspace(0.3, 0.99, len(said)),
        "teacher_prediction": images.labels.clone(),
    }
    write_tensors(folder / "predictions.safetensors", tensors, {})


def _metrics(level: float, noise: np.random.Generator, *, has_teacher: bool) -> dict[str, float]:
    def near(value: float, spread: float = 0.005) -> float:
        return float(value + noise.normal(0, spread))

    metrics = {
        "test/acc": float(level),
        "test/acc_teacher": TEACHER,
        "val/acc": near(level),
        "test/top5": near(0.995, 0.001),
        "test/nll": near(2 * (1 - level), 0.02),
        "test/brier": near(1.6 * (1 - level), 0.01),
        "test/ece": abs(near(0.04, 0.01)),
        "test/ece_teacher": 0.02,
        "test/ece_scaled": abs(near(0.015, 0.004)),
        "test/knn": near(level - 0.01),
        "test/knn_teacher": 0.965,
        "test/knn_20": near(level - 0.012),
        "test/linear": near(level + 0.002),
        "test/few_shot_5": near(level - 0.1),
        "test/map": near(level - 0.2),
        "test/recall_1": near(level - 0.02),
        "test/ood_knn_noise": near(0.9, 0.02),
        "test/ood_knn_noise_fpr95": near(0.4, 0.04),
        "test/ood_msp_noise": near(0.85, 0.02),
        "test/ood_knn_tiny-imagenet": near(0.8, 0.02),
        "test/corrupted": near(level - 0.25, 0.01),
        "test/corrupted_relative": near(1.4, 0.05),
        "cost/parameters": 78_042.0,
        "cost/parameters_teacher": 272_474.0,
        "cost/macs": 12.75e6,
        "cost/macs_teacher": 41.2e6,
        "cost/megabytes": 0.33,
        "cost/latency_ms_1": abs(near(2.1, 0.1)),
        "cost/latency_ms_1_teacher": 5.3,
        "cost/images_per_second_256": abs(near(5200, 80)),
    }
    if not has_teacher:
        metrics = {name: value for name, value in metrics.items() if not name.endswith("_teacher")}
    else:
        metrics |= {
            "test/agreement": near(level - 0.005),
            "test/agreement_teacher_errs": near(0.4, 0.05),
            "test/kl": abs(near(0.2, 0.02)),
            "test/cka": near(0.8, 0.02),
            "test/neighbors_10": near(0.45, 0.02),
            "teacher/acc": 0.98,
        }
    return metrics


def _details(level: float, noise: np.random.Generator) -> dict[str, Any]:
    edges = np.linspace(0, 1, 31)
    middles = (edges[1:] + edges[:-1]) / 2
    confidence = (np.arange(15) + 0.5) / 15
    severities = [1, 3, 5]

    def falling(start: float) -> list[float]:
        return [float(start - 0.08 * severity + noise.normal(0, 0.01)) for severity in severities]

    names = ["fog", "gaussian_noise", "jpeg_compression", "motion_blur"]
    return {
        "per_class": {
            "accuracy": (level + noise.normal(0, 0.03, 10)).clip(0, 1).tolist(),
            "count": [36] * 10,
            "accuracy_teacher": np.linspace(0.93, 1, 10).tolist(),
        },
        "calibration": {
            "confidence": confidence.tolist(),
            "accuracy": (confidence * 0.9 + noise.normal(0, 0.03, 15)).clip(0, 1).tolist(),
            "count": [0, 0, *range(1, 13), 270],
            "temperature": 1.4,
        },
        "ood": {
            "knn_noise": {
                "edges": edges.tolist(),
                "known": (100 * np.exp(-(((middles - 0.8) / 0.1) ** 2))).tolist(),
                "unknown": (100 * np.exp(-(((middles - 0.5) / 0.15) ** 2))).tolist(),
            }
        },
        "corruptions": {
            "severities": severities,
            "accuracy": {name: falling(level) for name in names},
            "accuracy_teacher": {name: falling(TEACHER) for name in names},
        },
    }


def _history(reached: float, noise: np.random.Generator) -> str:
    """Return a metrics.csv as Lightning's CSVLogger writes it: sparse, with separate rows for validation."""
    lines = ["epoch,step,teacher/acc,train/loss,val/acc", ",0,0.98,,"]
    for epoch in range(6):
        for step in range(3):
            lines.append(f"{epoch},{20 * epoch + 5 * step},,{3 * 0.6**epoch + 0.1 * noise.random()},")
        lines.append(f"{epoch},{20 * epoch + 19},,,{reached - 0.4 * 0.5**epoch + 0.01 * noise.random()}")
    return "\n".join(lines) + "\n"
