"""The example methods of docs/adding-a-method.md, as they stand there, outside the package and inside it."""

import importlib
import re
import sys
from pathlib import Path

import pandas
import pytest
import torch
import yaml
from helpers import shared_parser
from helpers.configs import changed
from helpers.ranks import start_ranks
from PIL import Image

from kd_lightning.cli import main
from kd_lightning.distillation import StudentModule
from kd_lightning.models import Network

PAGE = (Path(__file__).parents[2] / "docs/adding-a-method.md").read_text()
BLOCKS = dict(re.findall(r"<!-- (method|labels|views|bank|ramp) -->\n```python\n(.*?)```", PAGE, re.S))
CLASSES = {"method": "Cosine", "labels": "ConfidentKD", "views": "CrossView", "bank": "Bank", "ramp": "RampedSP"}


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the examples, which is the current folder."""
    for name, code in BLOCKS.items():
        (tmp_path / f"{CLASSES[name].lower()}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    shared_parser.share(monkeypatch)
    yield tmp_path
    for kind in CLASSES.values():
        sys.modules.pop(kind.lower(), None)


def fit(folder: Path, name: str, *args: str, **fields: object) -> StudentModule:
    config = changed(model__class_path=f"{CLASSES[name].lower()}.{CLASSES[name]}", **fields)
    config["data"]["init_args"] |= {"batch_size": 64, "views": 2 if name == "views" else 1}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    quiet = ["--trainer.enable_progress_bar=false", "--run.wandb=off", f"--run.output_dir={folder / 'runs'}"]
    return main(["fit", "--config=config.yaml", *quiet, *args]).model


@pytest.mark.parametrize("name", CLASSES)
def test_it_trains(there: Path, name: str) -> None:
    args = ["--trainer.limit_train_batches=3", "--trainer.log_every_n_steps=1", "--trainer.max_epochs=1"]
    method = fit(there, name, *args)
    assert type(method).__name__ == CLASSES[name]
    (csv,) = there.rglob("metrics.csv")
    term = next(iter({*method.weights} - {"ce_weight", "kd_weight"})).removesuffix("_weight")
    assert f"train/{term}" in csv.read_text().splitlines()[0]
    checkpoint = torch.load(next(there.rglob("last.ckpt")), weights_only=True)["state_dict"]
    if name == "ramp":  # its weight is 0 in the first epoch
        rows = pandas.read_csv(csv)
        assert {*rows["train/ramp"].dropna()} == {*rows["train/sp"].dropna()} == {0}
        assert method.ramp_epochs == 5
    if name == "bank":
        assert torch.equal(checkpoint["queue"], method.queue)
        assert checkpoint["place"] == 3 * 64


def refused(capfd: pytest.CaptureFixture, *args: object, **fields: object) -> str:
    capfd.readouterr()
    with pytest.raises(SystemExit):
        fit(*args, **fields)
    return capfd.readouterr().err.splitlines()[-1]


def test_data_that_the_examples_cannot_use(there: Path, capfd: pytest.CaptureFixture) -> None:
    words = "error: data.views: CrossView needs at least 2 views of each image, and 1 is too few"
    assert refused(capfd, there, "views", "--data.views=1") == words
    line = refused(capfd, there, "labels", "--data.mixing.mixup=0.5")
    assert line == "error: data.mixing: ConfidentKD needs one label per image; remove data.mixing"
    (there / "images").mkdir()
    for number in range(30):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(there / f"images/{number}.png")
    bare = {"class_path": "ImageFolder", "init_args": {"path": "images", "labeled": False, "num_classes": 10}}
    line = refused(capfd, there, "labels", "--model.ce_weight=0", data=bare)
    assert line.startswith("error: data.labeled: ConfidentKD reads labels, but the data have none")
    line = refused(capfd, there, "bank", "--model.queue_size=32")
    assert line == "error: queue_size: 32 is less than the 64 images of a batch; give 64 or more"


def _queue_of_rank(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world
    )
    sys.path.insert(0, str(folder))
    torch.manual_seed(rank)
    student = Network("cifar_resnet8", num_classes=10, model_kwargs={"channels": [4, 4, 8, 16]})
    teacher = Network("cifar_resnet20.digits", pretrained=True)
    method = importlib.import_module("bank").Bank(student=student, teacher=teacher, queue_size=12)
    method.on_fit_start()
    rows = torch.arange(8, dtype=torch.float32)[:, None].expand(8, 64) + torch.eye(8, 64)
    method.enqueue(rows[rank::world])
    torch.save(method.queue, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.e2e
def test_the_bank_is_the_same_in_every_process(there: Path) -> None:
    start_ranks(_queue_of_rank, (2, there), 2)
    first, second = (torch.load(there / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)
    rows = torch.arange(8, dtype=torch.float32)[:, None].expand(8, 64) + torch.eye(8, 64)
    torch.testing.assert_close(first[:8], torch.nn.functional.normalize(rows))  # the order of one process
