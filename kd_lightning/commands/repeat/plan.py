"""The jobs of `repeat`: one job for each config and seed, with the folders and the state of its runs."""

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kd_lightning.commands.repeat.sweep import in_words as settings_in_words
from kd_lightning.commands.repeat.sweep import insert, with_settings
from kd_lightning.errors import ConfigError
from kd_lightning.io.paths import expand, read_text
from kd_lightning.io.safe_yaml import load_yaml
from kd_lightning.runs.differences import differences, in_words

FIT = (sys.executable, "-m", "kd_lightning", "fit")
"""Command that starts a run."""
RESOLVE = (sys.executable, "-m", "kd_lightning.cli.resolve")
"""Command that reads lists of arguments of `fit` as JSON, and writes their configs as JSON."""
MARK = "repeat-"
"""Prefix of the ids of the runs that `repeat` starts."""


@dataclass(frozen=True)
class Config:
    """A config of `fit`, with one combination of the settings that are varied.

    Args:
        path: path of the file.
        content: all settings, including the defaults, the varied settings and the further arguments.
        settings: the varied settings, by field.
        refusal: the error with which `fit` would end before it creates the folder of a run; '' if there is none.
    """

    path: str
    content: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    refusal: str = ""

    @property
    def name(self) -> str:
        """Name of the config's runs, in which `{seed}` stands for the seed, as in `Run`."""
        method = self.content["model"]["class_path"].rpartition(".")[2].lower()
        return insert(self.content["run"]["name"] or f"{method}-s{{seed}}", self.settings)

    @property
    def title(self) -> str:
        """The path with the varied settings, for messages."""
        return f"{self.path}, {settings_in_words(self.settings)}" if self.settings else self.path

    @property
    def run_config(self) -> dict[str, Any]:
        """The settings that identify the config's runs: all settings except the seed, the folders and the loggers.

        `protocol.allow_changed_inputs` is left out as well, so that it continues the run that was stopped without it.
        """
        content = {key: value for key, value in self.content.items() if key not in ("seed_everything", "config")}
        protocol = content.get("protocol")
        if isinstance(protocol, dict) and "allow_changed_inputs" in protocol:
            content["protocol"] = {**protocol, "allow_changed_inputs": False}  # its default
        return {**content, "run": {"project": self.content["run"]["project"], "name": self.name}}


@dataclass(frozen=True)
class Job:
    """A config with a seed.

    A job may have several runs, all in the folder `parent_dir`. The folder of the first run is named `id`. If a run was
    stopped, the next run resumes it or starts again, in the folder `id-r1`, then `id-r2`, and so on.
    """

    config: Config
    seed: int

    @property
    def id(self) -> str:
        """A digest of the config, the further arguments and the seed."""
        text = json.dumps([self.config.run_config, self.seed], sort_keys=True, default=str)
        return MARK + hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def parent_dir(self) -> Path:
        """The folder that contains the folders of the runs."""
        run = self.config.content["run"]
        return expand(run["output_dir"]) / run["project"] / self.config.name.replace("{seed}", str(self.seed))

    def attempts(self) -> list[Path]:
        """Return the folders of the existing runs, in the order of their start."""
        folders = {number: path for number, path in self._numbered() if path.is_dir()}
        return [folders[number] for number in sorted(folders)]

    def result(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the folder and the results.json of the latest finished run; None if there is none."""
        for folder in reversed(self.attempts()):
            try:
                results = json.loads(read_text(folder / "results.json"))
            except (OSError, ValueError):  # the file is missing or incomplete
                continue
            if isinstance(results, dict):
                return folder, results
        return None

    def checkpoint(self) -> Path | None:
        """Return the latest complete last.ckpt; None if there is none."""
        paths = [folder / "last.ckpt" for folder in reversed(self.attempts())]
        return next((path for path in paths if zipfile.is_zipfile(path)), None)

    def next(self) -> Path:
        """Return the folder for the next run; neither the folder nor its log exists yet."""
        number = max((number for number, _ in self._numbered()), default=-1) + 1
        return self.parent_dir / (self.id if number == 0 else f"{self.id}-r{number}")

    def command(self, arguments: list[str], folder: Path) -> list[str]:
        """Return the command that runs the job in a folder; if the job has a checkpoint, the command resumes from it.

        Args:
            arguments: further arguments of `fit`.
            folder: result of `next`.
        """
        settings = self.config.settings
        line = [*FIT, "--config", self.config.path, *with_settings(settings, arguments)]
        line += [f"--run.name={self.config.name}"] * bool(settings) + [f"--seed_everything={self.seed}"]
        line.append(f"--run.id={folder.name}")
        checkpoint = self.checkpoint()
        return [*line, f"--ckpt_path={checkpoint}"] if checkpoint else line

    def changed(self) -> str:
        """Return as text how the config differs from that of an earlier run with the same name and seed.

        The earlier run is the latest run of another job of `repeat`. It remains, and this job starts a new run. Return
        '' if there is no such run.
        """
        others = [path for path in self.parent_dir.glob(f"{MARK}*/config.yaml") if path.parent not in self.attempts()]
        for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
            try:
                earlier = load_yaml(read_text(path))
            except (OSError, ValueError, yaml.YAMLError):
                continue  # the run was killed while it wrote this file
            if not isinstance(earlier, dict) or earlier.get("seed_everything") != self.seed:
                continue
            changed = {key: both for key, both in differences(earlier, self.config.content).items() if _identifies(key)}
            return in_words(changed) or "defaults of another version of the code"
        return ""

    def _numbered(self) -> Iterator[tuple[int, Path]]:
        for path in self.parent_dir.glob(f"{self.id}*"):
            if match := re.fullmatch(rf"{self.id}(?:-r(\d+))?(?:\.log)?", path.name):
                yield int(match[1] or 0), path


def resolve(requests: list[tuple[str, dict[str, Any]]], arguments: list[str]) -> list[Config]:
    """Return configs with their defaults, the varied settings and the further arguments.

    One process checks all of them, because it takes seconds to start. If there are several, it also builds the objects
    of each config. A single config is checked by its first run.

    Args:
        requests: paths of configs, with the varied settings by field.
        arguments: further arguments of `fit`.

    Raises:
        ConfigError: if `fit` rejects a config; the message is that of `fit`.
    """
    lines = [["--config", path, *with_settings(settings, arguments)] for path, settings in requests]
    command = [*RESOLVE, "--build"] if len(requests) > 1 else [*RESOLVE]
    process = subprocess.run(command, input=json.dumps(lines), capture_output=True, text=True, check=False)
    if process.returncode:
        raise ConfigError(last_error(process.stderr, process.returncode))
    answers, configs = json.loads(process.stdout), []
    for (path, settings), answer in zip(requests, answers, strict=False):  # the first error is the last answer
        if "error" in answer:
            raise ConfigError(f"{answer['error']} ({Config(path, {}, settings).title})")
        configs.append(Config(path, load_yaml(answer["config"]), settings, answer.get("refusal", "")))
    for line in dict.fromkeys(line for answer in answers for line in answer["notices"]):
        print(line, file=sys.stderr)
    return configs


def awaited(config: Config, earlier: list[Job]) -> tuple[str, Job] | None:
    """Return the missing file that a refusal names, and the earlier job whose folder will contain it; None if none."""
    for given in _texts(config.content):
        if given not in config.refusal:
            continue
        path = expand(given).absolute()
        writer = next((job for job in earlier if path.is_relative_to(job.parent_dir.absolute())), None)
        if writer and writer.config is not config and not path.exists():
            return given, writer
    return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
    elif isinstance(value, str) and value:
        yield value


def last_error(text: str, status: int) -> str:
    """Return the last line of a process's output that begins with `error:`, or the last line if there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    line = (errors or lines or [f"it ended with status {status} and without output"])[-1]
    return line.removeprefix("error: ")


def _identifies(key: str) -> bool:
    """Return whether a key of config.yaml is one of the settings that identify a run."""
    other = ("seed_everything", "config", "ckpt_path", "weights_only", "data.init_args.seed")
    return key not in other and not key.startswith("run.")
