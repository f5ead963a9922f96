"""SaveConfig: the config of a run, beside its checkpoints and in its loggers."""

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger

from kd_lightning.errors import ConfigError
from kd_lightning.io.safe_yaml import load_yaml


class SaveConfig(SaveConfigCallback):
    """Writes config.yaml into the run's folder as `fit` begins, never over another, and sends it to the loggers.

    (Lightning's own would write to the W&B logger's folder, at every subcommand.) A run that goes on (`overwrite`, as
    Lightning calls it) keeps the one that it began with.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or self.already_saved or not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / self.config_filename
        if path.exists() and not self.overwrite:
            raise ConfigError(f"run.id: {path} is another run's; choose another run.id, or leave it out")
        content = _held(path)
        if content is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, path, skip_none=False, multifile=self.multifile, overwrite=True)
            content = load_yaml(path.read_text())
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):  # it would write the same beside config.yaml
                logger.log_hyperparams(content)
        self.already_saved = True


def _held(path: Path) -> dict[str, Any] | None:
    """The config that is there; None for half of one, that a run was killed at, or none."""
    try:
        content = load_yaml(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) else None
