"""Going on with a run where it was interrupted, in its own folder."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from kd_lightning.config.checks import fixed_seed
from kd_lightning.errors import ConfigError, one_line
from kd_lightning.io.safe_yaml import load_yaml
from kd_lightning.io.schema import check_schema
from kd_lightning.runs.differences import differences, in_words
from kd_lightning.runs.directory import Run

MUTABLE_ON_RESUME = (
    "ckpt_path",
    "config",
    "weights_only",
    "run.",
    "guard.",
    "protocol.test",
    "protocol.every_n_steps",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.plugins",
    "trainer.enable_progress_bar",
    "trainer.profiler",
    "data.init_args.path",
    "data.init_args.num_workers",
    "data.init_args.memory_limit",
    "data.init_args.on_error",
)
"""Settings (or their beginnings) that may change when a run goes on: where it runs, and what it does about faults."""


def resume_path(config: Namespace) -> Path | None:
    """The last.ckpt that `fit` goes on from in the run's own folder, or the folder where there is none yet.

    None for a new run, be it from another run's checkpoint. Fills in `ckpt_path` and `run.id` where `ckpt_path` is
    `last`.

    Raises:
        ConfigError: where there is nothing to go on with.
    """
    given = config.get("ckpt_path")
    if not given:
        return None
    run, kind = Run(**config.run.as_dict()), config.model.class_path.rpartition(".")[2]
    seed = fixed_seed(config.seed_everything)
    if given != "last":
        own = run.id is not None and run.parent_dir(kind, seed) / run.id / "last.ckpt"
        if not (own and own.exists() and own.resolve() == Path(given).resolve()):
            return None
    folder = run.unfinished(kind, seed)
    if folder is None:
        config.ckpt_path = None
        return None
    last = folder / "last.ckpt"
    config.run.id, config.ckpt_path = folder.name, str(last) if last.exists() else None
    return last if last.exists() else folder


def check_config_matches(place: Path, now: dict[str, Any]) -> None:
    """Refuses to go on with a run under other settings than it began with.

    Args:
        place: as `resume_path` gives it.
        now: the config as it would be saved.

    Raises:
        ConfigError: naming the first settings that differ.
    """
    folder = place if place.is_dir() else place.parent
    instead = f"--ckpt_path {place} without run.id begins another run from there" if place.is_file() else ""
    try:
        before = load_yaml((folder / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        if not place.is_file():
            return  # killed as it began: there is nothing to differ from
        raise ConfigError(
            f"ckpt_path: {folder}/config.yaml is gone or cannot be read ({one_line(error)}), and the run's settings "
            f"with it; {instead}"
        ) from error
    check_schema(before, folder / "config.yaml", "ckpt_path")
    changed = {name: both for name, both in differences(before, now).items() if not name.startswith(MUTABLE_ON_RESUME)}
    if changed:
        raise ConfigError(
            f"ckpt_path: the run {folder.name} goes on with its own settings: {in_words(changed)}"
            f"; {instead or 'give another run.id'}"
        )
