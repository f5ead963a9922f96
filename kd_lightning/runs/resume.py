"""Resume an interrupted run in its own folder."""

import re
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from kd_lightning.config.checks import fixed_seed
from kd_lightning.errors import ConfigError, one_line
from kd_lightning.io.paths import read_text
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
    "protocol.allow_changed_inputs",
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
"""Names, or first parts of names, of settings that may change when a run is resumed.

These settings concern the machine, the output and the handling of errors.
"""


def resume_path(config: Namespace) -> Path | None:
    """Return the path of the last.ckpt from which `fit` resumes a run.

    If the resumed run has no last.ckpt yet, return the path of the run's folder. Return None for a new run, even if the
    new run starts from another run's checkpoint. If a run is resumed, the function also changes `config`: `run.id`
    becomes the id of the run, and `ckpt_path` becomes the path of its last.ckpt, or None if there is no last.ckpt.

    Raises:
        ConfigError: if there is no run to resume, or if the run cannot be resumed, for example because it has finished.
    """
    ckpt_path = config.get("ckpt_path")
    if not ckpt_path:
        return None
    run, kind, seed = _names(config)
    if ckpt_path != "last":
        own = run.id is not None and run.parent_dir(kind, seed) / run.id / "last.ckpt"
        if not (own and own.exists() and own.resolve() == Path(ckpt_path).resolve()):
            return None
    folder = run.unfinished(kind, seed)
    if folder is None:
        config.ckpt_path = None
        return None
    last = folder / "last.ckpt"
    config.run.id, config.ckpt_path = folder.name, str(last) if last.exists() else None
    return last if last.exists() else folder


def check_no_word(config: Namespace) -> None:
    """Raise an error if `ckpt_path` is a word such as `best` and not the path of a file.

    Raises:
        ConfigError: in this case. The message contains the newest checkpoint of the runs with this name.
    """
    given = str(config.ckpt_path)
    if not re.fullmatch(r"\w{1,40}", given) or Path(given).exists():
        return
    run, kind, seed = _names(config)
    found = [*run.parent_dir(kind, seed).glob("*/*.ckpt")]
    named = [path for path in found if path.stem == given] or found
    newest = max(named, key=lambda path: path.stat().st_mtime, default=None)
    example = f"for example {newest}" if newest else "for example RUN/best.ckpt or RUN/last.ckpt in the folder of a run"
    raise ConfigError(no_checkpoint(given, f"give a path, {example}"))


def no_checkpoint(given: str, hint: str) -> str:
    """Return the error for a word that is given as `ckpt_path`, with a hint what to give instead."""
    resumes = " (`last` is a valid word only for fit, which resumes a run)" if given == "last" else ""
    return f"ckpt_path: {given!r} is not the path of a checkpoint{resumes}; {hint}"


def _names(config: Namespace) -> tuple[Run, str, int]:
    """Return the names of a run, the name of its method's class, and its seed."""
    names = {name: value for name, value in config.run.as_dict().items() if name != "__path__"}  # file of a sub-config
    return Run(**names), config.model.class_path.rpartition(".")[2], fixed_seed(config.seed_everything)


def check_config_matches(place: Path, now: dict[str, Any]) -> None:
    """Raise an error if the settings of a resumed run differ from the settings with which the run began.

    Args:
        place: path that `resume_path` returned.
        now: current config, in the form that is written to config.yaml.

    Raises:
        ConfigError: if settings differ, or if the config.yaml of the run is missing, cannot be read, or has another
            schema (version of the file format). The message contains the first settings that differ.
    """
    folder = place if place.is_dir() else place.parent
    instead = (
        f"to begin a new run from its checkpoint, give --ckpt_path {place} without run.id" if place.is_file() else ""
    )
    try:
        before = load_yaml(read_text(folder / "config.yaml"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        if not place.is_file():
            return  # the run was killed before it wrote its config
        raise ConfigError(
            f"ckpt_path: {folder}/config.yaml with the run's settings is missing or cannot be read "
            f"({one_line(error)}); {instead}"
        ) from error
    check_schema(before, folder / "config.yaml", "ckpt_path")
    changed = {name: both for name, both in differences(before, now).items() if not name.startswith(MUTABLE_ON_RESUME)}
    if changed:
        raise ConfigError(
            f"ckpt_path: the run {folder.name} can only be resumed with its original settings, but some have changed: "
            f"{in_words(changed)}; {instead or 'to begin a new run, give another run.id'}"
        )
