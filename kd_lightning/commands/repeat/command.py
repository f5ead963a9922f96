"""Repeat: the class of the command, which skips finished runs and resumes unfinished ones."""

import inspect
import json
import shlex
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rich.table import Table

from kd_lightning.commands.repeat.comparability import differences
from kd_lightning.commands.repeat.plan import Config, Job, awaited, resolve
from kd_lightning.commands.repeat.processes import Outcome, Processes, count_gpus, done, environments, result
from kd_lightning.commands.repeat.sweep import MOST_RUNS, combinations, in_words
from kd_lightning.errors import ConfigError, RunError, check_positive, nearest
from kd_lightning.io.console import wide
from kd_lightning.io.paths import check_writable
from kd_lightning.io.paths import resolve as existing
from kd_lightning.redaction import allow_names, printable, redacted

_RESERVED = {
    "seed_everything": "repeat sets the seed of each run; use --seeds",
    "run.id": "repeat sets the id of each run; use --run.output_dir to store the runs in another folder",
    "ckpt_path": "repeat resumes each run from its own last.ckpt; omit it",
    "print_config": "repeat cannot print a config; use --dry_run, or fit --print_config",
}
"""Arguments of `fit` that cannot be given to `repeat`, and the reason for each of them."""


class Repeat:
    """Runs every config with every seed, each run in its own process.

    All configs are run with one seed before the next seed begins. If `repeat` is stopped, the finished runs are
    therefore comparable. A run is identified by its config, the further arguments and its seed. If it has results, it
    is skipped. If it was stopped, a run in a new folder continues from its last.ckpt. If a run fails, the other runs
    continue. The output of each run is written to a .log file next to its folder. If two commands `repeat` run at the
    same time, a command skips the runs that the other command has begun. The table at the end has the minutes of
    training of each finished run, which include all parts of a training that was resumed. All further arguments are
    passed to `fit`, for all runs (`--trainer.max_epochs 6`).

    With `--sweep`, each config is run with all combinations of several values of its settings, or with a random sample
    of them. The name of each run contains its settings, and `compare` shows their effect.

    Args:
        configs: paths of configs of `fit`. The names of their runs (run.name) must differ.
        seeds: number of seeds, counted from 0, or a list of seeds (`[3, 7]`).
        max_parallel: number of runs at a time. If there are enough GPUs, each run has its own GPU. Without GPUs, the
            runs share the cores.
        dry_run: whether the commands are only printed, and not run.
        sweep: settings to vary, as FIELD=VALUES. VALUES is a list (`model.optimizer.lr='[0.05, 0.1]'`), or with
            `sample` also a range (`model.optimizer.lr='{min: 1e-3, max: 1, scale: log}'`). If min and max of a range
            are integers, only integers are drawn. Default: no setting is varied.
        sample: number of random combinations of the values in `sweep`. Default: all combinations.
        sample_seed: seed of the random combinations. A larger `sample` begins with the same combinations.
    """

    def __init__(
        self,
        *,
        configs: list[str],
        seeds: int | list[int] = 5,
        max_parallel: int = 1,
        dry_run: bool = False,
        sweep: list[str] = [],  # noqa: B006  it is not changed
        sample: int | None = None,
        sample_seed: int = 0,
    ) -> None:
        check_positive(max_parallel=max_parallel)
        paths: dict[Path, str] = {}
        for config in configs:
            path = existing(config, "configs")
            if not path.is_file():
                raise ConfigError(f"configs: {path} is not a file")
            if path.resolve() in paths:
                raise ConfigError(f"configs: {config} is given twice")
            paths[path.resolve()] = str(path)
        self.configs, self.seeds = [*paths.values()], _seeds(seeds)
        self.max_parallel, self.dry_run = max_parallel, dry_run
        self.settings = combinations(sweep, sample, sample_seed)
        self._own_arguments = ["--configs", *self.configs, f"--seeds={seeds}", f"--max_parallel={max_parallel}"]
        if sweep:
            self._own_arguments += ["--sweep", *sweep]
        if sample is not None:
            self._own_arguments += [f"--sample={sample}", f"--sample_seed={sample_seed}"]

    def __call__(self, arguments: list[str]) -> list[dict[str, Any]]:
        """Run all jobs, and return one row per run: config, seed, state, folder, result, minutes of training.

        Args:
            arguments: further arguments of `fit`, for all runs.

        Raises:
            ConfigError: if a config has an error, or if an object of a config cannot be built. It is raised before any
                run is started.
            RunError: if runs have failed. It is raised after all runs have ended.
        """
        for argument in arguments:
            name = argument.partition("=")[0].lstrip("-").rstrip("+")
            if argument.startswith("--") and name in _RESERVED:
                raise ConfigError(f"{name}: {_RESERVED[name]}")
            if argument.startswith("--sweep."):
                field = name.removeprefix("sweep.")
                raise ConfigError(f"{name} is not a field; write --sweep {field}='[...]'")
            own = inspect.signature(Repeat).parameters
            if argument.startswith("--") and name != "config" and get_close_matches(name, own, cutoff=0.8):
                raise ConfigError(f"{name} is not a field{nearest(name, own)}")
        configs = self._resolve(arguments)
        if unequal := differences([*{config.path: config for config in reversed(configs)}.values()][::-1]):
            self._say(f"warning: the runs are not comparable: {unequal}")
        jobs = [Job(config, seed) for seed in self.seeds for config in configs]
        self._check_refusals(jobs)
        for config in configs:
            new_jobs = [job for job in jobs if job.config is config and not job.attempts()]
            changes = {job.seed: changed for job in new_jobs if (changed := job.changed())}
            if changes:
                change = next(iter(changes.values()))
                self._say(f"{config.title} has changed ({change}); new runs are started, and the old runs remain")
        if self.dry_run:
            outcomes = [_planned(job) for job in jobs]
            for job, outcome in zip(jobs, outcomes, strict=True):
                if outcome.folder and outcome.state.startswith("would"):
                    self._say(shlex.join(job.command(arguments, outcome.folder)))
        else:
            processes = Processes(arguments, self._environments(configs), self._say)
            outcomes = processes.run(jobs)
        return self._conclude(outcomes, arguments)

    def _resolve(self, arguments: list[str]) -> list[Config]:
        configs = resolve([(path, settings) for path in self.configs for settings in self.settings], arguments)
        self._check_effects(configs)
        names: dict[tuple[str, str], str] = {}
        for config in configs:
            run = config.content["run"]
            allow_names([config.name, run["project"]])
            check_writable(Path(run["output_dir"]), "run.output_dir")
            key = (run["project"], config.name)
            if key in names:
                raise ConfigError(
                    f"configs: the runs of {names[key]} and {config.title} have the same name {config.name}; "
                    "set run.name in one of them"
                )
            names[key] = config.title
        return configs

    def _check_effects(self, configs: list[Config]) -> None:
        """Raise an error if two combinations of settings result in the same config.

        Raises:
            ConfigError: in this case. The reason can be that a further argument sets the same field.
        """
        known: dict[str, Config] = {}
        for config in configs:
            content = {**config.content, "run": None, "config": None}
            other = known.setdefault(f"{config.path} {json.dumps(content, sort_keys=True, default=str)}", config)
            if other is not config:
                raise ConfigError(
                    f"sweep: {in_words(other.settings)} and {in_words(config.settings)} give the same run; a further "
                    "argument or config may set the same field, or the values are equal"
                )

    def _check_refusals(self, jobs: list[Job]) -> None:
        """Raise an error if `fit` would refuse a job that has no results; with `dry_run`, print a line instead.

        A config that only lacks a file that an earlier job writes, such as its teacher's weights, is checked by its own
        run.
        """
        lines: dict[str, None] = {}
        for number, job in enumerate(jobs):
            if not job.config.refusal or job.result():
                continue
            if found := awaited(job.config, jobs[:number]):
                path, earlier = found
                reads = f"{job.config.title} reads {path}, which a run of {earlier.config.title} writes"
                if self.max_parallel > 1:
                    raise ConfigError(f"max_parallel: {reads}; give 1, so that the runs begin in this order")
                lines[f"{reads}; it is checked when its run begins"] = None
                continue
            line = f"{job.config.refusal} ({job.config.title})"
            if not self.dry_run:
                raise ConfigError(line)
            lines[f"warning: fit would end with an error: {line}"] = None
        for line in lines:
            self._say(line)

    def _environments(self, configs: list[Config]) -> list[dict[str, str]]:
        trainers = [config.content["trainer"] for config in configs]
        gpus = 0 if all(trainer["accelerator"] == "cpu" for trainer in trainers) else count_gpus()
        each = max(n if isinstance(n := trainer["devices"], int) and n > 0 else 1 for trainer in trainers)
        if 0 < gpus < self.max_parallel * each and self.max_parallel > 1:
            self._say(f"{self.max_parallel} runs at a time share {gpus} GPU{'s' * (gpus > 1)}")
        return environments(self.max_parallel, gpus=gpus, each=each)

    def _conclude(self, outcomes: list[Outcome], arguments: list[str]) -> list[dict[str, Any]]:
        table = Table("config", "seed", "state", "result", "training (min)")
        rows = [*_rows(outcomes)]
        for row in rows:
            minutes = "" if row["minutes"] is None else f"{row['minutes']:.1f}"
            table.add_row(row["config"], str(row["seed"]), row["state"], row["result"], minutes)
        wide().print(table)
        folders = [row["folder"] for row in rows if row["done"]]
        if len(folders) > 1:
            line = ["python", "-m", "kd_lightning", "compare", *folders]
            self._say(f"to compare the runs: {shlex.join(line)} --out report")
        if any(outcome.state in ("stopped", "not begun") for outcome in outcomes):
            line = ["python", "-m", "kd_lightning", "repeat", *self._own_arguments, *arguments]
            self._say(f"stopped; to resume: {shlex.join(line)}")
            raise SystemExit(130)
        failed = [outcome for outcome in outcomes if outcome.state == "failed"]
        if failed:
            lines = [f"{outcome.job.config.title}, seed {outcome.job.seed}: {outcome.message}" for outcome in failed]
            raise RunError(f"{len(failed)} of {len(outcomes)} runs failed: {'; '.join(lines)}")
        return rows

    @staticmethod
    def _say(line: str) -> None:
        print(printable(redacted(line)), flush=True)


def _seeds(seeds: int | list[int]) -> list[int]:
    if isinstance(seeds, int):
        check_positive(seeds=seeds)
        if seeds > MOST_RUNS:
            raise ConfigError(f"seeds: {seeds:,} is more than {MOST_RUNS:,}")
        return [*range(seeds)]
    if not seeds:
        raise ConfigError("seeds: the list is empty; give a number of seeds, or a list such as [0, 1, 2]")
    for number, seed in enumerate(seeds):
        if not 0 <= seed < 2**32:
            raise ConfigError(f"seeds: {seed} is not a number from 0 to 2**32 - 1")
        if seed in seeds[:number]:
            raise ConfigError(f"seeds: {seed} is given twice")
    return seeds


def _planned(job: Job) -> Outcome:
    if result := job.result():
        return done(job, "done before", *result)
    return Outcome(job, "would resume" if job.checkpoint() else "would run", job.next())


def _rows(outcomes: list[Outcome]) -> Iterator[dict[str, Any]]:
    for outcome in outcomes:
        done = bool(outcome.results)
        message = outcome.message if outcome.state in ("failed", "elsewhere") else ""
        yield {
            "config": outcome.job.config.title,
            "seed": outcome.job.seed,
            "state": f"{outcome.state} ({message})" if outcome.state == "elsewhere" else outcome.state,
            "result": result(outcome.results) if done else message if outcome.state == "failed" else "",
            "minutes": outcome.minutes,
            "folder": str(outcome.folder) if outcome.folder else None,
            "done": done,
        }
