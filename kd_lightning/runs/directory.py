"""Run: the names of a run, its folder, its loggers, and the selection of the run to resume."""

import os
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from kd_lightning.data import ImageData
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.io.paths import check_name, check_writable
from kd_lightning.loggers import ResilientWandbLogger, ResumableCSVLogger
from kd_lightning.runs.checkpoint_io import steps_done
from kd_lightning.runs.status import in_words, read_state

RESUME_ENV_VAR = "KD_LIGHTNING_RUN"
"""Environment variable with the id of the resumed run; rank 0 sets it for the processes that it starts."""


@dataclass
class Run:
    """Names of a run, which define its folder `<output_dir>/<project>/<name>/<id>/` and its entry in W&B.

    Args:
        project: Name of the W&B project, and of the first folder in `output_dir`.
        name: Name of the run; {seed} in it is replaced by the seed of the run. Default: `<method>-s{seed}`.
        group: Group of the run in W&B. Default: `<data set>/<teacher>-<student>`, so that W&B groups comparable runs.
        tags: Tags of the run in W&B, in addition to the names of the data set, the method and the networks.
        output_dir: Path of the folder that contains all runs.
        id: Name of the run's own folder. Default: date, time and four random characters. A run never writes into the
            folder of another run. `--ckpt_path last` resumes the unfinished run with this id; if no run has this id, a
            new run begins.
        wandb: Mode of logging to W&B: `online`, `offline` (into the run's folder), `off` (log only to CSV) or `auto`.
            `auto` is the mode in the environment variable WANDB_MODE if it is set; otherwise `online` if there is an
            API key, and else `offline`. No mode asks for input.
    """

    project: str = "kd_lightning"
    name: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    output_dir: str = "runs"
    id: str | None = None
    wandb: Literal["auto", "online", "offline", "off"] = "auto"

    def __post_init__(self) -> None:
        for field_name in ("project", "name", "id"):
            if getattr(self, field_name) is not None:
                check_name(getattr(self, field_name), f"run.{field_name}")
        folder = self.output_dir
        if not folder or "\0" in folder or Path(folder).expanduser().is_file():
            raise ConfigError(f"run.output_dir: {folder!r} is not a folder; give a folder, or omit it for runs/")

    def parent_dir(self, kind: str, seed: int) -> Path:
        """Return the folder of all runs with this name: `<output_dir>/<project>/<name>/`.

        Args:
            kind: name of the method's class.
            seed: seed of the run.

        Raises:
            ConfigError: for a name that cannot be the name of a folder.
        """
        name = (self.name or f"{kind.lower()}-s{{seed}}").replace("{seed}", str(seed))
        for field_name, value in (("project", self.project), ("name", name), ("id", self.id or "id")):
            check_name(value, f"run.{field_name}")
        return Path(self.output_dir).expanduser() / self.project / name

    def unfinished(self, kind: str, seed: int) -> Path | None:
        """Return the folder of the run that `--ckpt_path last` resumes; None if `run.id` names no existing run.

        This is the run with the id `run.id` or, if `run.id` is not given, the newest unfinished run of this project and
        name.

        Raises:
            ConfigError: if that run has finished or is running, or if there is no run to resume.
        """
        parent_dir, follows = self.parent_dir(kind, seed), rank_zero_only.rank > 0
        identifier = self.id or (os.environ.get(RESUME_ENV_VAR) if follows else None)
        if identifier is not None:
            folder = parent_dir / identifier
            if not folder.exists():
                return None
        elif int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1) > 1:
            raise ConfigError(
                "ckpt_path: `last` cannot select a run if torchrun or SLURM starts several processes; give run.id"
            )
        else:
            runs = [path.parent for path in parent_dir.glob("*/config.yaml")]
            open_runs = [run for run in runs if read_state(run)["state"] not in ("finished", "running")]
            newest_last = sorted(open_runs, key=lambda run: (run / "config.yaml").stat().st_mtime)
            if not newest_last:
                raise ConfigError(
                    f"ckpt_path: there is no run to resume for `last`: {parent_dir} contains no interrupted run "
                    f"(finished or running: {len(runs)}); omit ckpt_path to begin a run, or give run.id"
                )
            folder = newest_last[-1]
        if not follows and read_state(folder)["state"] in ("finished", "running"):
            raise ConfigError(
                f"ckpt_path: `last` cannot resume {folder}, which {in_words(folder)}; "
                f"--ckpt_path {folder / 'last.ckpt'} without run.id begins a new run from this checkpoint"
            )
        os.environ[RESUME_ENV_VAR] = folder.name  # for the processes that this one starts
        return folder

    def open(
        self, method: StudentModule, data: ImageData, resume_path: Path | None = None
    ) -> tuple[Path, list[Logger]]:
        """Return the run's folder and the run's loggers; the folder is created when the first file is written.

        Args:
            method: method of the run.
            data: data of the run.
            resume_path: checkpoint in the run's folder from which the run is resumed. If the folder has no checkpoint
            yet, it is the path of the folder. Default: a new run.

        Raises:
            ConfigError: if the folder belongs to another run.
        """
        kind = type(method).__name__
        names = [network.name for network in (getattr(method, "teacher", None), method.student) if network]
        parent_dir = self.parent_dir(kind, data.seed)
        follows = rank_zero_only.rank > 0  # other ranks write nothing, and get rank 0's folder in Protocol.setup
        identifier = self.id or time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)
        check_writable(Path(self.output_dir), "run.output_dir")
        folder = parent_dir / identifier
        if folder.exists() and not (follows or resume_path):
            raise ConfigError(
                f"run.id: {folder} belongs to another run, which {in_words(folder)}; --ckpt_path last resumes an "
                "unfinished run, and another run.id (or none) begins a new run"
            )
        first_step = steps_done(resume_path) if resume_path and resume_path.is_file() else 0
        loggers: list[Logger] = [ResumableCSVLogger(folder, first_step=first_step)]
        if self.wandb != "off":
            mode = self.wandb if self.wandb != "auto" else None
            loggers.append(
                ResilientWandbLogger(
                    mode=mode,
                    save_dir=folder,
                    project=self.project,
                    name=parent_dir.name,
                    id=identifier,
                    group=self.group or f"{data.name}/{'-'.join(names)}",
                    job_type=kind.lower(),
                    tags=list(dict.fromkeys([*self.tags, data.name, kind.lower(), *names])),
                    first_step=first_step,
                )
            )
        return folder, loggers
