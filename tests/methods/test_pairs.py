"""Every method with every pair of network kinds, end to end: fit, resume, test, load the student in timm."""

from pathlib import Path

import pytest
import timm
import torch
from helpers.factories import METHODS, with_weights
from safetensors.torch import load_file

from kd_lightning.cli import main
from kd_lightning.distillation import Distiller, StudentModule

VIT = {"img_size": 8, "patch_size": 4, "depth": 4, "num_heads": 2, "embed_dim": 16}
CNN = {"channels": [4, 4, 8, 16]}
NETWORKS = {"cnn": ("cifar_resnet8", CNN), "vit": ("vit_tiny_patch16_224", VIT)}
PAIRS = ["cnn-cnn", "vit-cnn", "cnn-vit", "vit-vit"]
CASES = [
    pytest.param(
        kind,
        pair,
        id=f"{kind.__name__}-{pair}",
        marks=[] if pair == PAIRS[0] or kind.__name__ == "SP" else pytest.mark.e2e,
    )
    for kind in METHODS
    for pair in PAIRS
]
"""Each method with one pair, and SP with all four, are in the default run; the other cases are in `e2e`."""
BRIEF = ["--data=Digits", "--data.max_train_samples=100", "--data.batch_size=25", "--trainer.limit_train_batches=2"]
BRIEF += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--run.wandb=off"]


@pytest.mark.parametrize(("kind", "pair"), CASES)
def test_fit_go_on_test_and_take_the_student_away(kind: type[StudentModule], pair: str, tmp_path: Path) -> None:
    (teacher, teacher_kwargs), (student, student_kwargs) = (NETWORKS[name] for name in pair.split("-"))
    args = [f"--model={kind.__name__}", f"--model.student={{name: {student}, model_kwargs: {student_kwargs}}}"]
    if issubclass(kind, Distiller):
        with_weights(tmp_path, teacher, **teacher_kwargs)
        path = tmp_path / f"{teacher}.safetensors"
        args.append(f"--model.teacher={{name: {teacher}, checkpoint: {path}, model_kwargs: {teacher_kwargs}}}")
    elif pair.startswith("vit"):
        pytest.skip("it has no teacher")
    args += [*BRIEF, "--trainer.callbacks=[{class_path: KNN, init_args: {k: 3}}]"]
    run = tmp_path / "runs/kd_lightning/first/1"
    named = [f"--run.output_dir={tmp_path / 'runs'}", "--run.id=1"]
    main(["fit", *args, *named, "--run.name=first", "--trainer.max_epochs=1"])
    more = ["--run.name=second", "--trainer.max_epochs=2", f"--ckpt_path={run / 'last.ckpt'}"]
    assert main(["fit", *args, *named, *more]).trainer.global_step == 4
    tested = main(["test", f"--config={run / 'config.yaml'}", f"--ckpt_path={run / 'last.ckpt'}"]).trainer
    assert 0 <= tested.callback_metrics["test/knn"] <= 1
    taken = timm.create_model(student, num_classes=10, **student_kwargs)
    taken.load_state_dict(load_file(run / "student.safetensors"))
    assert all(torch.isfinite(value).all() for value in taken.state_dict().values())
