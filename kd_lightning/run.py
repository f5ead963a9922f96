"""Run: what a run is called, the folder that is its own, and the loggers that write there."""

import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities import rank_zero_only

from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError
from kd_lightning.loggers import OfflineSafeWandb
from kd_lightning.methods import StudentModule
from kd_lightning.paths import check_writable


@dataclass
class Run:
    """Names of a run, in its folder `<folder>/<project>/<name>/<id>/` and on the W&B dashboard.

    Args:
        project: W&B project.
        name: default: `<method>-s{seed}`; {seed} stands for the run's seed.
        group: default: `<data set>/<teacher>-<student>`, so that a dashboard groups what can be compared.
        tags: besides the data set, the method and the networks.
        folder: where all runs lie.
        id: default: date and time, and four letters. A run never writes into another's folder.
        wandb: `auto` logs online where there is an API key, offline in the run's folder where there is none, and
            asks nothing; WANDB_MODE is obeyed. `off` leaves the CSV alone.
    """

    project: str = "kd_lightning"
    name: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    folder: str = "runs"
    id: str | None = None
    wandb: Literal["auto", "online", "offline", "off"] = "auto"

    def open(self, method: StudentModule, data: ImageData) -> tuple[Path, list[Logger]]:
        """The run's own folder (made when first written to) and its loggers.

        Raises:
            ConfigError: if the folder is another run's.
        """
        kind = type(method).__name__.lower()
        names = [network.name for network in (getattr(method, "teacher", None), method.student) if network]
        name = (self.name or f"{kind}-s{{seed}}").replace("{seed}", str(data.seed))
        follows = rank_zero_only.rank > 0  # it writes nothing, and is told the first one's folder (Protocol.setup)
        identifier = self.id or time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)
        for field_name, value in (("project", self.project), ("name", name), ("id", identifier)):
            if Path(value).name != value:
                raise ConfigError(f"run.{field_name}: {value!r} is to be a folder's name, without / and not ..")
        check_writable(Path(self.folder), "run.folder")
        folder = Path(self.folder).expanduser() / self.project / name / identifier
        if folder.exists() and not follows:
            raise ConfigError(f"run.id: {folder} is another run's folder; choose another run.id, or leave it out")
        loggers: list[Logger] = [CSVLogger(folder, name="", version="")]
        if self.wandb != "off":
            mode = self.wandb if self.wandb != "auto" else None
            loggers.append(
                OfflineSafeWandb(
                    mode=mode,
                    save_dir=folder,
                    project=self.project,
                    name=name,
                    id=identifier,
                    group=self.group or f"{data.name}/{'-'.join(names)}",
                    job_type=kind,
                    tags=list(dict.fromkeys([*self.tags, data.name, kind, *names])),
                )
            )
        return folder, loggers
