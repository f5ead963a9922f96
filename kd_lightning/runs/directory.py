"""Run: what a run is called, the folder that is its own, the loggers that write there, and how it goes on."""

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
"""The variable by which the first process tells those that it starts which run goes on."""


@dataclass
class Run:
    """Names of a run, in its folder `<output_dir>/<project>/<name>/<id>/` and on the W&B dashboard.

    Args:
        project: W&B project.
        name: default: `<method>-s{seed}`; {seed} stands for the run's seed.
        group: default: `<data set>/<teacher>-<student>`, so that a dashboard groups what can be compared.
        tags: besides the data set, the method and the networks.
        output_dir: where all runs lie.
        id: default: date and time, and four letters. A run never writes into another's folder; `--ckpt_path last` goes
            on with the unfinished run of this id, and begins it where there is none.
        wandb: `auto` logs online where there is an API key, offline in the run's folder where there is none, and
            asks nothing; WANDB_MODE is obeyed. `off` leaves the CSV alone.
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
            raise ConfigError(f"run.output_dir: {folder!r} is no folder; give one, or leave it out for runs/")

    def parent_dir(self, kind: str, seed: int) -> Path:
        """The folder that the runs of one name lie in: `<output_dir>/<project>/<name>/`.

        Args:
            kind: the method's class.
            seed: the run's.

        Raises:
            ConfigError: for what cannot be a folder's name.
        """
        name = (self.name or f"{kind.lower()}-s{{seed}}").replace("{seed}", str(seed))
        for field_name, value in (("project", self.project), ("name", name), ("id", self.id or "id")):
            check_name(value, f"run.{field_name}")
        return Path(self.output_dir).expanduser() / self.project / name

    def unfinished(self, kind: str, seed: int) -> Path | None:
        """The folder of the run that `--ckpt_path last` goes on with; None: `run.id` is of a run that has not begun.

        That is the run of `run.id`, or else the newest of this project and name that has not finished.

        Raises:
            ConfigError: if it has finished or is running, or if there is none to go on with.
        """
        parent_dir, follows = self.parent_dir(kind, seed), rank_zero_only.rank > 0
        identifier = self.id or (os.environ.get(RESUME_ENV_VAR) if follows else None)
        if identifier is not None:
            folder = parent_dir / identifier
            if not folder.exists():
                return None
        elif int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1) > 1:
            raise ConfigError(
                "ckpt_path: last: where torchrun or SLURM starts several processes, name the run by run.id"
            )
        else:
            runs = [path.parent for path in parent_dir.glob("*/config.yaml")]
            open_runs = [run for run in runs if read_state(run)["state"] not in ("finished", "running")]
            found = sorted(open_runs, key=lambda run: (run / "config.yaml").stat().st_mtime)
            if not found:
                runs = f"{len(runs)} run{'s' * (len(runs) != 1)}"
                raise ConfigError(
                    f"ckpt_path: last: in {parent_dir} there are {runs}, and none to go on with; leave it out to begin "
                    "one, or name a run by run.id"
                )
            folder = found[-1]
        if not follows and read_state(folder)["state"] in ("finished", "running"):
            raise ConfigError(
                f"ckpt_path: last: {folder} {in_words(folder)}; --ckpt_path {folder / 'last.ckpt'} without run.id "
                "begins another run from there"
            )
        os.environ[RESUME_ENV_VAR] = folder.name  # for the processes that this one starts
        return folder

    def open(
        self, method: StudentModule, data: ImageData, resume_path: Path | None = None
    ) -> tuple[Path, list[Logger]]:
        """The run's own folder (made when first written to) and its loggers.

        Args:
            method: the run's.
            data: the run's.
            resume_path: the checkpoint in this folder to resume from, or the folder where there is none.

        Raises:
            ConfigError: if the folder is another run's.
        """
        kind = type(method).__name__
        names = [network.name for network in (getattr(method, "teacher", None), method.student) if network]
        parent_dir = self.parent_dir(kind, data.seed)
        follows = rank_zero_only.rank > 0  # it writes nothing, and is told the first one's folder (Protocol.setup)
        identifier = self.id or time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)
        check_writable(Path(self.output_dir), "run.output_dir")
        folder = parent_dir / identifier
        if folder.exists() and not (follows or resume_path):
            raise ConfigError(
                f"run.id: {folder} is another run's folder, and that {in_words(folder)}; --ckpt_path last goes on with "
                "an unfinished one, another run.id (or none) begins another"
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
