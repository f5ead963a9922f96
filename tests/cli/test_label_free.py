"""Images without labels, and a teacher that knows its classes by name, through the command line."""

import csv
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torchvision.utils import save_image

from kd_lightning.cli import main
from kd_lightning.models import Network, checkpoints

TEACHER = "--model.teacher={name: cifar_resnet20.digits, pretrained: true}"
STUDENT = "--model.student={name: cifar_resnet8}"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All digits as files, at two depths, their names saying nothing of their class."""
    root = tmp_path_factory.mktemp("bare") / "pictures"
    images = torch.from_numpy(load_digits().images / 16).float()
    for number, image in enumerate(images[:600]):
        folder = root / f"{number % 3}" if number % 2 else root
        folder.mkdir(parents=True, exist_ok=True)
        save_image(image.expand(3, 8, 8), folder / f"{number:04}.png")
    return root


def fit(tmp_path: Path, *args: str) -> object:
    fixed = ["--trainer.accelerator=cpu", "--run.wandb=off", f"--run.output_dir={tmp_path / 'runs'}"]
    return main(["fit", *args, *fixed, "--trainer.enable_progress_bar=false"])


def bare(path: Path, classes: int) -> list[str]:
    data = [
        f"--data.path={path}",
        "--data.labeled=false",
        "--data.test_split=0",
        f"--data.num_classes={classes}",
        "--data.batch_size=50",
    ]
    return ["--data=ImageFolder", *data, "--data.augmentations=[]"]


@pytest.mark.e2e
@pytest.mark.parametrize("method", ["KD", "SP"])
def test_a_student_learns_from_the_teacher_alone(method: str, digits: Path, tmp_path: Path) -> None:
    model = [f"--model={method}", TEACHER, STUDENT, "--model.ce_weight=0"]
    cli = fit(tmp_path, *bare(digits, 10), *model, "--trainer.max_epochs=12")
    (path,) = (tmp_path / "runs").rglob("metrics.csv")
    with path.open() as file:
        rows = [*csv.DictReader(file)]
    losses = [float(row[f"train/{method.lower()}"]) for row in rows if row.get(f"train/{method.lower()}")]
    assert losses[-1] < losses[0] / 2
    assert not {name for name in rows[0] if name.startswith("test/") or name.endswith(("/ce", "/acc"))}
    seen = "val/agreement" if method == "KD" else "val/neighbors"  # progress without a label
    progress = [float(row[seen]) for row in rows if row[seen]]
    assert len(progress) == 12
    assert progress[-1] > progress[0] + 0.1
    (student,) = (tmp_path / "runs").rglob("student.safetensors")
    assert student.parent == path.parent
    if method == "KD":  # it was taught what digits are without having seen a label
        data = load_digits()
        images = torch.from_numpy(data.images / 16).float()[:, None].expand(-1, 3, -1, -1)
        with torch.no_grad():
            found = cli.model.student.eval()(images).argmax(1)
        assert (found == torch.from_numpy(data.target)).float().mean() > 0.7


def test_a_loss_that_reads_labels_is_refused(digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    for model in (["--model=KD", TEACHER, STUDENT], ["--model=Supervised", STUDENT]):
        with pytest.raises(SystemExit):
            fit(tmp_path, *bare(digits, 10), *model)
        assert "data.labeled: " in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_teacher_with_the_classes_in_another_order_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    names = ["cat", "dog", "bird"]
    for split in ("train", "test"):
        for label, name in enumerate(names):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for number in range(6):
                save_image(torch.full((3, 8, 8), (label * 6 + number) / 18), folder / f"{number}.png")
    data = ["--data=ImageFolder", f"--data.path={tmp_path / 'pets'}", "--data.batch_size=4", "--data.val_split=3"]
    network = Network("cifar_resnet8", num_classes=3)
    network.has_weights = True
    for order in (names, sorted(names)):
        facts = {**network.facts(), "class_names": order}
        checkpoints.write(tmp_path / "teacher.safetensors", network.model.state_dict(), facts)
        teacher = f"--model.teacher={{name: cifar_resnet8, checkpoint: {tmp_path / 'teacher.safetensors'}}}"
        args = [*data, "--model=KD", teacher, STUDENT, "--trainer.max_epochs=1"]
        if order == names:
            with pytest.raises(SystemExit):
                fit(tmp_path, *args)
            line = capfd.readouterr().err
            assert "the data's classes in another order: class 0 is cat for the teacher and bird in the data" in line
            assert not (tmp_path / "runs").exists()
        else:
            fit(tmp_path, *args)
    (student,) = (tmp_path / "runs").rglob("student.safetensors")
    assert Network("cifar_resnet8", checkpoint=str(student)).class_names == sorted(names)
