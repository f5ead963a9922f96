"""Run: the names, the folder and the loggers of a run. The class also selects the run that is resumed."""

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
from kd_lightning.io.paths import check_name
from kd_lightning.loggers import ResilientWandbLogger, ResumableCSVLogger
from kd_lightning.runs.checkpoint_io import steps_done
from kd_lightning.runs.place import check_place, check_room, expand_folder
from kd_lightning.runs.status import in_words, read_state

RESUME_ENV_VAR = "KD_LIGHTNING_RUN"
"""Environment variable with the id of the resumed run. Rank 0 sets the variable for the processes that it starts."""


@dataclass
class Run:
    """Names of a run. They define the run's folder `<output_dir>/<project>/<name>/<id>/` and the run's entry in W&B.

    Args:
        project: Name of the project in W&B, and name of the project's folder in `output_dir`.
        name: Name of the run. The text {seed} in the name is replaced by the seed of the run. Default:
            `<method>-s{seed}`.
        group: Group of the run in W&B. Default: `<data set>/<teacher>-<student>`. W&B then puts
            runs with the same data set and networks into one group.
        tags: Further tags of the run in W&B. The names of the data set, the method and the networks are always tags.
        output_dir: Path of the folder that contains all runs.
        id: Name of the run's own folder. Default: date, time and four random characters. A run never writes into the
            folder of another run. With `--ckpt_path last`, the interrupted run with this id is resumed. If no run
            has this id, a new run begins.
        wandb: Mode of logging to W&B: `online`, `offline` (write to the run's folder), `off` (log only to CSV) or
            `auto`. `auto` uses the mode in the environment variable WANDB_MODE. If the variable is not set, `auto` is
            `online` with an API key and `offline` without a key. W&B never waits for input in the terminal.
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
        expand_folder(self.output_dir, "run.output_dir")

    def parent_dir(self, kind: str, seed: int) -> Path:
        """Return the folder of all runs with this name: `<output_dir>/<project>/<name>/`.

        Args:
            kind: name of the method's class.
            seed: seed of the run.

        Raises:
            ConfigError: if the project, the name or the id cannot be the name of a folder.
        """
        name = (self.name or f"{kind.lower()}-s{{seed}}").replace("{seed}", str(seed))
        for field_name, value in (("project", self.project), ("name", name), ("id", self.id or "id")):
            check_name(value, f"run.{field_name}")
        folder = expand_folder(self.output_dir, "run.output_dir") / self.project / name
        check_place(folder)
        return folder

    def unfinished(self, kind: str, seed: int) -> Path | None:
        """Return the folder of the run that `--ckpt_path last` resumes.

        If `run.id` is given, the run with this id is selected. If no run has this id, return None. If `run.id` is not
        given, the newest interrupted run with this project and name is selected.

        Raises:
            ConfigError: if the selected run has finished or is running, or if no run can be selected without `run.id`.
                The reason can be that all runs are finished or running, or that torchrun or SLURM starts several
                processes.
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
                    f"ckpt_path: `last` found no interrupted run in {parent_dir} (number of finished or running runs: "
                    f"{len(runs)}); to begin a new run, omit ckpt_path or give a new run.id"
                )
            folder = newest_last[-1]
        if not follows and read_state(folder)["state"] in ("finished", "running"):
            raise ConfigError(
                f"ckpt_path: `last` cannot resume {folder}, which {in_words(folder)}; "
                f"to begin a new run from its checkpoint, give --ckpt_path {folder / 'last.ckpt'} without run.id"
            )
        os.environ[RESUME_ENV_VAR] = folder.name  # for the processes that this process starts
        return folder

    def open(
        self, method: StudentModule, data: ImageData, resume_path: Path | None = None
    ) -> tuple[Path, list[Logger]]:
        """Return the run's folder and the run's loggers. The folder is created when the first file is written.

        Args:
            method: method of the run.
            data: data of the run.
            resume_path: path of the checkpoint in the run's folder from which the run is resumed. If the folder has no
                checkpoint yet, `resume_path` is the path of the folder. Default: a new run begins.

        Raises:
            ConfigError: if the folder belongs to another run, or if `output_dir` cannot be written to.
        """
        kind = type(method).__name__
        names = [network.name for network in (getattr(method, "teacher", None), method.student) if network]
        parent_dir = self.parent_dir(kind, data.seed)
        follows = rank_zero_only.rank > 0  # these ranks write nothing, and Protocol.setup sends them rank 0's folder
        identifier = self.id or time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)
        folder = parent_dir / identifier
        check_place(folder)
        if folder.exists() and not (follows or resume_path):
            further = "to resume this run if it was interrupted, give --ckpt_path last"
            if read_state(folder)["state"] == "finished":
                last = folder / "last.ckpt"
                further = (
                    f"to train it for more epochs, give a new run.id, --ckpt_path {last} and a larger "
                    "--trainer.max_epochs"
                )
            raise ConfigError(
                f"run.id: {folder} belongs to another run, which {in_words(folder)}; to begin a new run, change "
                f"or omit run.id; {further}"
            )
        if not follows:
            check_room(folder, method, resumes=resume_path is not None)
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
