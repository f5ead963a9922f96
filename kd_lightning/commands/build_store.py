"""build-store: ask the teacher for all augmented training images, before the runs that read its store."""

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from rich.progress import track

from kd_lightning.data import ImageData
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError


class BuildStore:
    """Fills the teacher store of a config (`model.teacher_store`), so that no run asks the teacher.

    The arguments must be those of the runs. If the command is stopped, it continues where it was when it is run again.
    Runs may use the store while it is filled.
    """

    def __call__(self, method: StudentModule, data: ImageData, trainer: Trainer) -> Path:
        store = getattr(method, "teacher_store", None)
        if store is None:
            raise ConfigError("model.teacher_store: no store is given to fill; give model.teacher_store.path")
        method.trainer = trainer
        method.check_data(data)
        data.setup("fit")
        method.on_data_ready(data)
        store.open(method)
        device, precision = trainer.strategy.root_device, trainer.precision_plugin
        precision.convert_module(method)
        method.to(device).eval()
        loader, quiet = data.loader_of_draws(), trainer.progress_bar_callback is None
        for draw in range(data.augmentation_epochs):
            loader.sampler.set_epoch(draw)
            text = f"augmentations {draw + 1} of {data.augmentation_epochs}"
            for batch in track(loader, text, disable=quiet):
                moved = trainer.strategy.batch_to_device(precision.convert_input(batch), device)
                with precision.forward_context():
                    store.features(method, data.augmented(moved))
        rank_zero_info(f"{store.rows.filled:,} augmented images are stored in {store.folder}")
        store.close()
        return store.folder
