"""SavePredictions: the file that `predict` writes."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from kd_lightning.distillation import Prediction
from kd_lightning.errors import ConfigError
from kd_lightning.io.atomic import write_tensors


class SavePredictions(Callback):
    """Collects the student's predictions into one safetensors file.

    The file contains `logits` N,K, `embedding` N,D, `labels` N and `indices` N (positions in the split, as in `Batch`).
    The metadata of the file contain `paths`, `class_names` and `split` as JSON. `paths` is a list of N names, or an
    empty list if the images have no files.

    Args:
        path: Path of the file, which must not exist.

    Raises:
        ConfigError: if the file exists, if the path does not end in .safetensors, or if there is more than one device.
    """

    def __init__(self, *, path: str = "predictions.safetensors") -> None:
        self.path, self.parts = Path(path).expanduser(), []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "predict":
            return
        if self.path.suffix != ".safetensors":
            raise ConfigError(f"predictions.path: {self.path} does not end in .safetensors")
        if self.path.exists():
            raise ConfigError(f"predictions.path: {self.path} exists and is not overwritten; give another path")
        if trainer.world_size > 1:
            raise ConfigError(f"trainer.devices: {trainer.world_size} devices are given, but predict needs exactly 1")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Prediction,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.parts.append(Prediction(*(tensor.detach().cpu() for tensor in outputs)))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule
        tensors = {name: torch.cat([getattr(part, name) for part in self.parts]) for name in Prediction._fields}
        images = data.datasets[data.predict_split]
        place = dict(zip(images.indices.tolist(), images.paths(), strict=False))  # {} for images without files
        facts = {
            "paths": [place[index] for index in tensors["indices"].tolist()] if place else [],
            "class_names": data.class_names,
            "split": data.predict_split,
        }
        write_tensors(self.path, tensors, facts)
        rank_zero_info(f"{len(tensors['indices']):,} predictions are written to {self.path}")
