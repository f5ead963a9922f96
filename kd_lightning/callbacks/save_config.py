"""SaveConfig: write the config of a run into its folder, and log it."""

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger

from kd_lightning.errors import ConfigError
from kd_lightning.io.safe_yaml import load_yaml


class SaveConfig(SaveConfigCallback):
    """Writes config.yaml into the run's folder when `fit` begins, and logs the config.

    The config of another run is never overwritten. A resumed run (Lightning's argument `overwrite`) keeps the config
    with which it began. Lightning's own callback would write the config in every subcommand.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or self.already_saved or not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / self.config_filename
        if path.exists() and not self.overwrite:
            raise ConfigError(f"run.id: {path} belongs to another run; choose another run.id, or omit it")
        content = _existing(path)
        if content is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, path, skip_none=False, multifile=self.multifile, overwrite=True)
            content = load_yaml(path.read_text())
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):  # it would write the same content next to config.yaml
                logger.log_hyperparams(content)
        self.already_saved = True


def _existing(path: Path) -> dict[str, Any] | None:
    """Return the existing config, or None if the file is missing or incomplete (after a run was killed)."""
    try:
        content = load_yaml(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) else None
