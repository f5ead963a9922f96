"""A run that stops in the middle of an epoch goes on with the images that it would have seen."""

from pathlib import Path

import pytest
import torch
from helpers.factories import trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.data import Digits, ImageData, ImageFolder
from kd_lightning.methods import Supervised
from kd_lightning.models import Network


class Recorder(Callback):
    """What a run saw at each step; saves a checkpoint after one of them, or stops there."""

    def __init__(self, *, save: dict[int, Path] | None = None, stop: int | None = None) -> None:
        self.save, self.stop = save or {}, stop
        self.seen: list[tuple[int, Tensor, Tensor]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        self.seen.append((trainer.current_epoch, batch.indices, batch.images))
        if trainer.global_step in self.save:
            trainer.save_checkpoint(self.save[trainer.global_step])
        if trainer.global_step == self.stop:
            trainer.should_stop = True
            trainer.fit_loop.max_steps = trainer.global_step


def run(
    folder: Path, data: ImageData, recorder: Recorder, ckpt_path: Path | None = None
) -> list[tuple[int, Tensor, Tensor]]:
    torch.manual_seed(0)
    method = Supervised(student=Network("cifar_resnet8", num_classes=data.num_classes))
    trainer(folder, recorder, max_epochs=3).fit(method, datamodule=data, ckpt_path=ckpt_path)
    return recorder.seen


def folder(path: Path) -> ImageFolder:
    from PIL import Image

    for number in range(24):
        place = path / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number * 10, 0, 0)).save(place / f"{number:02}.png")
    return path


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 8])
@pytest.mark.parametrize("kind", ["memory", "files, 2 workers", "val"])
def test_the_images_after_a_resume_are_those_of_the_run_that_was_not_stopped(
    tmp_path: Path, steps: int, kind: str
) -> None:
    def data() -> ImageData:
        if kind == "memory":
            return Digits(batch_size=30, max_train_samples=120, val_split=0)
        limit = 0.0 if "files" in kind else 4.0
        held_out = 4 if kind == "val" else 0
        path = str(folder(tmp_path / "images"))
        return ImageFolder(
            path=path,
            batch_size=4,
            val_split=held_out,
            test_split=4,
            max_train_samples=16,
            memory_limit=limit,
            num_workers=2,
        )

    checkpoint = tmp_path / "middle.ckpt"
    whole = run(tmp_path, data(), Recorder(save={steps: checkpoint}))
    assert len(whole) == 12  # three epochs of four steps
    rest = run(tmp_path, data(), Recorder(), checkpoint)
    assert len(rest) == 12 - steps
    for (epoch, indices, images), (epoch_again, indices_again, images_again) in zip(whole[steps:], rest, strict=True):
        assert epoch == epoch_again
        assert torch.equal(indices, indices_again)
        assert torch.equal(images, images_again)
