"""A run that is stopped in the middle of an epoch, through the command line, and goes on from its last.ckpt."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from kd_lightning.batch import Batch
from kd_lightning.cli import main

BASELINE = f"--config={Path(__file__).parents[2] / 'configs/digits/baseline.yaml'}"
SEEN: list[tuple[int, torch.Tensor, torch.Tensor]] = []


class Seen(Callback):
    """Keeps each step's epoch, indices and images."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        SEEN.append((trainer.current_epoch, batch.indices, batch.images))


def fit(tmp_path: Path, *args: str) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
    SEEN.clear()
    fixed = ["--trainer.accelerator=cpu", "--run.wandb=off", f"--run.output_dir={tmp_path}", "--trainer.max_epochs=3"]
    fixed += ["--trainer.callbacks+=test_stopped_runs.Seen", "--trainer.enable_progress_bar=false"]
    main(["fit", BASELINE, *fixed, "--data.batch_size=200", *args])  # six steps an epoch
    return [*SEEN]


@pytest.mark.parametrize(
    ("steps", "more"),
    [(8, []), *(pytest.param(steps, [], marks=pytest.mark.e2e) for steps in (1, 6, 12, 17))]
    + [
        pytest.param(8, more, marks=pytest.mark.e2e)
        for more in (["--data.repeats=2", "--data.val_split=0"], ["--trainer.limit_train_batches=5"])
    ],
)
def test_the_rest_of_the_epoch_is_not_lost(
    tmp_path: Path, steps: int, more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    whole = fit(tmp_path, *more)
    assert fit(tmp_path, *more, f"--trainer.max_steps={steps}", "--run.id=stopped")[-1][0] == whole[steps - 1][0]
    (last,) = (path for path in tmp_path.rglob("last.ckpt") if path.parent.name == "stopped")
    rest = fit(tmp_path, *more, f"--ckpt_path={last}")
    assert len(rest) == len(whole) - steps
    for (epoch, indices, images), (epoch_again, indices_again, images_again) in zip(whole[steps:], rest, strict=True):
        assert epoch == epoch_again
        assert torch.equal(indices, indices_again)
        assert torch.equal(images, images_again)
