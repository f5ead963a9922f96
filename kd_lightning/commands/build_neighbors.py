"""build-neighbors: write the nearest neighbours of each training image (section 1c of the paper of CoSS)."""

from pathlib import Path
from typing import Literal

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from kd_lightning.data import ImageData
from kd_lightning.data.neighbors import nearest_neighbors, save_table
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.evaluation import read
from kd_lightning.io.paths import check_writable, expand
from kd_lightning.words import counted


class MakeNeighbors:
    """Writes a table with the nearest neighbours of each training image in the embedding of a config's teacher.

    The teacher embeds the images without augmentation.

    Args:
        path: path of the table, with the ending .safetensors. Default: `data.neighbors.path` of the config.
        k: number of neighbours of each image. The paper of CoSS uses 31.
        engine: library for the search: `torch` on the trainer's device, or `faiss` on the CPU (faiss must be
            installed).
    """

    def __init__(self, path: str | None = None, k: int = 31, engine: Literal["torch", "faiss"] = "torch") -> None:
        if k < 1:
            raise ConfigError(f"k: {k} is not positive")
        self.path, self.k, self.engine = path, k, engine
        if path is not None:
            _check(expand(path))

    def __call__(self, method: StudentModule, data: ImageData, trainer: Trainer) -> Path:
        teacher = getattr(method, "teacher", None)
        if teacher is None:
            raise ConfigError(
                f"model: {type(method).__name__} has no teacher to embed the images with; choose a method that has one"
            )
        target = self.path or (data.neighbors.path if data.neighbors else None)
        if target is None:
            raise ConfigError("path: no path is given for the table; give path or data.neighbors.path")
        path = expand(target)
        _check(path)
        data.neighbors = None  # the data would load the table, which does not exist yet
        data.setup("fit")
        images = data.datasets["train"]
        if self.k >= len(images):
            raise ConfigError(
                f"k: {self.k} is not between 1 and {len(images) - 1:,}, because there are {len(images):,} images"
            )
        device = trainer.strategy.root_device
        quiet = trainer.progress_bar_callback is None
        embedding = read(teacher.to(device), data.training_images_in_order(), device, quiet=quiet).embedding
        if len(embedding) < len(images):
            unread = len(images) - len(embedding)
            raise ConfigError(
                f"data.on_error: {counted(unread, 'image')} cannot be read, but the table needs all images; "
                "repair or remove them"
            )
        save_table(path, nearest_neighbors(embedding, self.k, engine=self.engine), images, teacher)
        rank_zero_info(
            f"the {self.k} nearest neighbours of each of {len(images):,} images in the embedding of {teacher.name} are "
            f"written to {path}"
        )
        return path


def _check(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise ConfigError(f"path: {path} does not end in .safetensors")
    check_writable(path, "path", kind="file")
