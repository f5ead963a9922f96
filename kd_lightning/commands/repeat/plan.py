"""What a repeat consists of: each config with each seed, where its runs lie, and how far they have come."""

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kd_lightning.errors import ConfigError
from kd_lightning.io.safe_yaml import load_yaml
from kd_lightning.runs.differences import differences, in_words

FIT = (sys.executable, "-m", "kd_lightning", "fit")
"""How a run is started."""
MARK = "repeat-"
"""How the ids of these runs begin."""


@dataclass(frozen=True)
class Config:
    """A config as `fit` takes it.

    Args:
        path: of the file.
        content: all of its values, the defaults and the further arguments included.
    """

    path: str
    content: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its runs, with {seed} for the seed, as Run names them."""
        method = self.content["model"]["class_path"].rpartition(".")[2].lower()
        return self.content["run"]["name"] or f"{method}-s{{seed}}"

    @property
    def run_config(self) -> dict[str, Any]:
        """What makes its runs what they are: all but the seed and where and how they are logged."""
        content = {key: value for key, value in self.content.items() if key not in ("seed_everything", "config")}
        return {**content, "run": {"project": self.content["run"]["project"], "name": self.name}}


@dataclass(frozen=True)
class Job:
    """A config with a seed.

    Its runs lie side by side: the first under `id`, one that goes on or starts anew behind it under `id-r1`, ...
    """

    config: Config
    seed: int

    @property
    def id(self) -> str:
        """The digest of what is to be run: another config, further argument or seed is another id."""
        text = json.dumps([self.config.run_config, self.seed], sort_keys=True, default=str)
        return MARK + hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def beside(self) -> Path:
        """The folder that the runs' own folders lie in."""
        run = self.config.content["run"]
        return (
            Path(run["output_dir"]).expanduser() / run["project"] / self.config.name.replace("{seed}", str(self.seed))
        )

    def attempts(self) -> list[Path]:
        """The folders of its runs so far, the latest last."""
        found = {number: path for number, path in self._numbered() if path.is_dir()}
        return [found[number] for number in sorted(found)]

    def result(self) -> tuple[Path, dict[str, Any]] | None:
        """The folder of the run that has come to its end, and its results.json."""
        for folder in reversed(self.attempts()):
            try:
                results = json.loads((folder / "results.json").read_text())
            except (OSError, ValueError):  # a file that was cut short is no result
                continue
            if isinstance(results, dict):
                return folder, results
        return None

    def checkpoint(self) -> Path | None:
        """The latest last.ckpt that was written to its end."""
        paths = [folder / "last.ckpt" for folder in reversed(self.attempts())]
        return next((path for path in paths if zipfile.is_zipfile(path)), None)

    def next(self) -> Path:
        """The folder for the next run, which is not there yet, nor its log."""
        number = max((number for number, _ in self._numbered()), default=-1) + 1
        return self.beside / (self.id if number == 0 else f"{self.id}-r{number}")

    def command(self, arguments: list[str], folder: Path) -> list[str]:
        """What runs it into a folder, from its checkpoint on where there is one.

        Args:
            arguments: further ones of `fit`.
            folder: as `next` gives it.
        """
        line = [*FIT, "--config", self.config.path, *arguments, f"--seed_everything={self.seed}"]
        line.append(f"--run.id={folder.name}")
        checkpoint = self.checkpoint()
        return [*line, f"--ckpt_path={checkpoint}"] if checkpoint else line

    def changed(self) -> str:
        """How the config differs from the one that the latest of other repeated runs was started with; '' if none.

        A run of other budget or method under the same name is not this one's: it stays, and this one starts anew.
        """
        others = [path for path in self.beside.glob(f"{MARK}*/config.yaml") if path.parent not in self.attempts()]
        for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
            try:
                then = load_yaml(path.read_text())
            except (OSError, ValueError, yaml.YAMLError):
                continue  # of a run that was killed as it wrote this
            if not isinstance(then, dict) or then.get("seed_everything") != self.seed:
                continue
            changed = {key: both for key, both in differences(then, self.config.content).items() if _counts(key)}
            return in_words(changed) or "defaults of another version of the code"
        return ""

    def _numbered(self) -> Iterator[tuple[int, Path]]:
        for path in self.beside.glob(f"{self.id}*"):
            if found := re.fullmatch(rf"{self.id}(?:-r(\d+))?(?:\.log)?", path.name):
                yield int(found[1] or 0), path


def resolve(path: str, arguments: list[str]) -> Config:
    """A config with its defaults and the further arguments, by `fit --print_config`.

    Raises:
        ConfigError: as `fit` words it.
    """
    line = [*FIT, "--config", path, *arguments, "--print_config"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{last_error(done.stderr, done.returncode)} ({path})")
    return Config(path, load_yaml(done.stdout))


def last_error(text: str, status: int) -> str:
    """The last line of what a process said that names its error, else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if line.startswith("error: ")]
    line = (named or lines or [f"it ended with status {status} and said nothing"])[-1]
    return line.removeprefix("error: ")


def _counts(key: str) -> bool:
    """Whether a key of config.yaml is one that makes a run what it is."""
    other = ("seed_everything", "config", "ckpt_path", "weights_only", "data.init_args.seed")
    return key not in other and not key.startswith("run.")
