"""SavePredictions: the files that `predict` and `embed` write."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from kd_lightning.callbacks import prediction_table
from kd_lightning.distillation import Prediction
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.io.atomic import write_tensors
from kd_lightning.io.console import wide
from kd_lightning.io.paths import check_writable, expand, numbered
from kd_lightning.runs.training_images import TrainingImages
from kd_lightning.words import counted

MOST_PRINTED = 20
"""Number of images up to which one line per image is printed."""
_LARGEST_HEADER = 50_000_000
"""Number of bytes of paths up to which a safetensors file contains them; safetensors allows 100 MB of metadata."""


class SavePredictions(Callback):
    """Writes the student's predictions: a table with one row per image, and a safetensors file with the tensors.

    The table has the path of the image, its class and confidence, the next classes and their confidences, and the
    label if there are labels. The safetensors file contains `logits` N,K, `embedding` N,D, `labels` N (-1 for an image
    without a label) and `indices` N (positions in the split, as in `Batch`). Its rows are in the order of the table.
    Its metadata contain `paths`, `class_names`, `split`, and the name and the fingerprint of the network as JSON.
    `EmbedDistill` can use the embeddings as a gallery. `paths` is an empty list if the images have no files, or if the
    paths have more than 50 MB. If the student's classifier was not trained, only embeddings are written.

    Args:
        output: Folder for the files. Default: `predictions/<name of the images>` in the folder of the run, or
            `embeddings/<name of the images>` for embeddings. If this folder exists, a number is added to its name.
            Without a run, the working directory takes the place of its folder.
        format: Format of the table: `csv`, or `parquet`, which needs the package pyarrow.
        top_k: Number of classes in the table for each image, those with the highest confidence.
        embeddings: Whether only embeddings are written, without classes and logits. The command `embed` sets it.
        path: Path of the safetensors file, instead of `output`. The table has the same path with another ending.

    Raises:
        ConfigError: if a file exists, if the path does not end in .safetensors, if both `output` and `path` are given,
            if `top_k` is not positive, if pyarrow is missing, or if there is more than one device.
    """

    def __init__(
        self,
        *,
        output: str | None = None,
        format: Literal["csv", "parquet"] = "csv",
        top_k: int = 5,
        embeddings: bool = False,
        path: str | None = None,
    ) -> None:
        check_positive(**{"predictions.top_k": top_k})
        if output is not None and path is not None:
            raise ConfigError("predictions.path: it cannot be combined with predictions.output; give only one of them")
        self.path = None if path is None else expand(path)
        self.output = None if output is None else expand(output)
        if self.path is not None and self.path.suffix != ".safetensors":
            raise ConfigError(f"predictions.path: {self.path} does not end in .safetensors")
        prediction_table.check_format(format)
        self.format, self.top_k, self.embeddings = format, top_k, embeddings
        self.run = Path()
        """Folder of the run, which the command line sets."""
        self.training_images: TrainingImages | None = None
        """Place of the training images of the run, if other images than its test images are read."""
        self.parts: list[Prediction] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "predict":
            return
        if trainer.world_size > 1:
            raise ConfigError(f"trainer.devices: {trainer.world_size} devices are given, but predict needs exactly 1")
        if not (self.embeddings or pl_module.trains_classifier):
            self.embeddings = True
            rank_zero_info("the classifier of this student was not trained, so embeddings are written, as by embed")
        kind = "embeddings" if self.embeddings else "predictions"
        field, file = "predictions.path", self.path
        if file is None:
            name = getattr(trainer.datamodule, "name_of_predictions", "images")
            new = (folder for folder in numbered(self.run / kind / name) if not folder.exists())
            folder = next(new) if self.output is None else self.output
            field, file = "predictions.output", folder / f"{kind}.safetensors"
        self.files = [file.with_suffix(f".{self.format}"), file]
        for file in self.files:
            check_writable(file, field, kind="file")
            if file.exists():
                raise ConfigError(f"{field}: {file} exists and is not overwritten; give another path")

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
        fields = [name for name in Prediction._fields if not (self.embeddings and name == "logits")]
        tensors = {name: torch.cat([getattr(part, name) for part in self.parts]) for name in fields}
        self.parts.clear()
        images = data.datasets[data.predict_split]
        place = dict(zip(images.indices.tolist(), images.paths(), strict=False))  # {} for images without files
        paths = [place[index] for index in tensors["indices"].tolist()] if place else []
        table = prediction_table.table(tensors, paths, data.class_names, self.top_k)
        split = getattr(data, "name_of_predictions", data.predict_split)
        kept = paths if len(json.dumps(paths)) <= _LARGEST_HEADER else []
        network = {"network": pl_module.deployed.name, "fingerprint": pl_module.deployed.fingerprint()}
        facts = {"paths": kept, "class_names": data.class_names, "split": split, **network}
        write_tensors(self.files[1], tensors, facts)
        prediction_table.write(table, self.files[0])
        count = len(tensors["indices"])
        if not self.embeddings:
            if count <= MOST_PRINTED:
                for line in prediction_table.lines(table):
                    wide().print(line, soft_wrap=True, highlight=False)
            if line := _accuracy(tensors["logits"], tensors["labels"]):
                rank_zero_info(line + (self.training_images.note(paths) if self.training_images else ""))
        kind = "embeddings" if self.embeddings else "predictions"
        rank_zero_info(f"{kind} of {counted(count, 'image')} are written to {self.files[0]} and {self.files[1]}")


def _accuracy(logits: Tensor, labels: Tensor) -> str:
    """Return one line with the accuracy on the images with labels, or '' if there are none."""
    known = labels >= 0
    if not known.any():
        return ""
    count = int(known.sum())
    accuracy = (logits[known].argmax(dim=1) == labels[known]).double().mean()
    return f"accuracy {accuracy:.2%} on the {counted(count, 'image')} with a label"
