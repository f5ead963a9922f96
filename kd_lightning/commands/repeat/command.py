"""The command: every config with every seed, what is done skipped, what is unfinished gone on with."""

import inspect
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rich.table import Table

from kd_lightning.commands.repeat.comparability import differences
from kd_lightning.commands.repeat.plan import Config, Job, resolve
from kd_lightning.commands.repeat.processes import Outcome, Processes, count_gpus, environments
from kd_lightning.errors import ConfigError, RunError, check_positive, nearest
from kd_lightning.io.console import wide
from kd_lightning.io.paths import check_writable
from kd_lightning.io.paths import resolve as existing

_ITS_OWN = {
    "seed_everything": "repeat gives each run its own; use --seeds",
    "run.id": "repeat names each run by its config and seed; use --run.output_dir for another place",
    "ckpt_path": "repeat goes on from each run's own last.ckpt; leave it out",
    "print_config": "use --dry_run, or fit --print_config",
}


class Repeat:
    """Runs every config with every seed, each in a process of its own, seed by seed: what is stopped is comparable.

    A run is known by its config, the further arguments and its seed. One that has its results is skipped, one that was
    stopped goes on from its last.ckpt in a folder of its own, one that fails leaves the others alone; what each said
    is in a .log beside its folder. A second `repeat` at the same time takes no run that the first has begun. All
    further arguments are `fit`'s own, for all runs (`--trainer.max_epochs 6`).

    Args:
        configs: configs of `fit`, each with a name of its own for its runs (run.name).
        seeds: so many, from 0 on, or a list of them (`[3, 7]`).
        max_parallel: how many runs to start at a time. Each gets a GPU if there are enough; without GPUs they
            share the cores.
        dry_run: prints what would be run, and runs nothing.
    """

    def __init__(
        self, *, configs: list[str], seeds: int | list[int] = 5, max_parallel: int = 1, dry_run: bool = False
    ) -> None:
        check_positive(max_parallel=max_parallel)
        paths: dict[Path, str] = {}
        for given in configs:
            path = existing(given, "configs")
            if not path.is_file():
                raise ConfigError(f"configs: {path} is not a file")
            if path.resolve() in paths:
                raise ConfigError(f"configs: {given} stands there twice")
            paths[path.resolve()] = str(path)
        self.configs, self.seeds = [*paths.values()], _seeds(seeds)
        self.max_parallel, self.dry_run = max_parallel, dry_run
        self._go_on = ["--configs", *self.configs, f"--seeds={seeds}", f"--max_parallel={max_parallel}"]

    def __call__(self, arguments: list[str]) -> list[dict[str, Any]]:
        """What came of each run: config, seed, state, folder, result, minutes.

        Args:
            arguments: further ones of `fit`, for all.

        Raises:
            ConfigError: for a config that `fit` refuses, before anything is started.
            RunError: for runs that failed, when the others have ended.
        """
        for argument in arguments:
            name = argument.partition("=")[0].lstrip("-").rstrip("+")
            if argument.startswith("--") and name in _ITS_OWN:
                raise ConfigError(f"{name}: {_ITS_OWN[name]}")
            own = inspect.signature(Repeat).parameters
            if argument.startswith("--") and name != "config" and get_close_matches(name, own, cutoff=0.8):
                raise ConfigError(f"{name} is not a field{nearest(name, own)}")
        configs = self._resolve(arguments)
        if unequal := differences(configs):
            self._say(f"warning: not of equal budget: {unequal}")
        jobs = [Job(config, seed) for seed in self.seeds for config in configs]
        for config in configs:
            anew = [job for job in jobs if job.config is config and not job.attempts()]
            changes = {job.seed: changed for job in anew if (changed := job.changed())}
            if changes:
                said = next(iter(changes.values()))
                self._say(f"{config.path} has changed ({said}): new runs; the old ones stay")
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
        with ThreadPoolExecutor(4) as pool:  # each is a process of seconds
            configs = [*pool.map(lambda path: resolve(path, arguments), self.configs)]
        names: dict[tuple[str, str], str] = {}
        for config in configs:
            run = config.content["run"]
            check_writable(Path(run["output_dir"]), "run.output_dir")
            key = (run["project"], config.name)
            if key in names:
                raise ConfigError(
                    f"configs: {names[key]} and {config.path} both name their runs {config.name}; give one a run.name"
                )
            names[key] = config.path
        return configs

    def _environments(self, configs: list[Config]) -> list[dict[str, str]]:
        trainers = [config.content["trainer"] for config in configs]
        gpus = 0 if all(trainer["accelerator"] == "cpu" for trainer in trainers) else count_gpus()
        each = max(n if isinstance(n := trainer["devices"], int) and n > 0 else 1 for trainer in trainers)
        if 0 < gpus < self.max_parallel * each and self.max_parallel > 1:
            self._say(f"{self.max_parallel} runs at a time share {gpus} GPU{'s' * (gpus > 1)}")
        return environments(self.max_parallel, gpus=gpus, each=each)

    def _conclude(self, outcomes: list[Outcome], arguments: list[str]) -> list[dict[str, Any]]:
        table = Table("config", "seed", "state", "result", "minutes")
        rows = [*_rows(outcomes)]
        for row in rows:
            minutes = "" if row["minutes"] is None else f"{row['minutes']:.1f}"
            table.add_row(row["config"], str(row["seed"]), row["state"], row["result"], minutes)
        wide().print(table)
        folders = [row["folder"] for row in rows if row["done"]]
        if len(folders) > 1:
            self._say(f"compare them: {shlex.join(['python', '-m', 'kd_lightning', 'compare', *folders])} --out report")
        if any(outcome.state in ("stopped", "not begun") for outcome in outcomes):
            line = ["python", "-m", "kd_lightning", "repeat", *self._go_on, *arguments]
            self._say(f"stopped; this goes on: {shlex.join(line)}")
            raise SystemExit(130)
        failed = [outcome for outcome in outcomes if outcome.state == "failed"]
        if failed:
            lines = [f"{outcome.job.config.path}, seed {outcome.job.seed}: {outcome.said}" for outcome in failed]
            raise RunError(f"{len(failed)} of {len(outcomes)} runs failed: {'; '.join(lines)}")
        return rows

    @staticmethod
    def _say(line: str) -> None:
        print(line, flush=True)


def _seeds(given: int | list[int]) -> list[int]:
    if isinstance(given, int):
        check_positive(seeds=given)
        return [*range(given)]
    if not given:
        raise ConfigError("seeds: the list is empty; give a number of seeds, or [0, 1, 2]")
    for number, seed in enumerate(given):
        if not 0 <= seed < 2**32:
            raise ConfigError(f"seeds: {seed} is not a number from 0 to 2**32 - 1")
        if seed in given[:number]:
            raise ConfigError(f"seeds: {seed} stands there twice")
    return given


def _planned(job: Job) -> Outcome:
    if found := job.result():
        return Outcome(job, "done before", found[0], found[1].get("seconds"), results=found[1])
    return Outcome(job, "would go on" if job.checkpoint() else "would run", job.next())


def _rows(outcomes: list[Outcome]) -> Iterator[dict[str, Any]]:
    for outcome in outcomes:
        done = bool(outcome.results)
        said = outcome.said if outcome.state in ("failed", "elsewhere") else ""
        yield {
            "config": outcome.job.config.path,
            "seed": outcome.job.seed,
            "state": f"{outcome.state} ({said})" if outcome.state == "elsewhere" else outcome.state,
            "result": _result(outcome.results) if done else said if outcome.state == "failed" else "",
            "minutes": None if outcome.seconds is None else outcome.seconds / 60,
            "folder": str(outcome.folder) if outcome.folder else None,
            "done": done,
        }


def _result(results: dict[str, Any]) -> str:
    """The test's accuracy; a run without one is told by what it has."""
    metrics = results.get("metrics") or {}
    evaluates = {"test/acc": "", "test/knn": " kNN", "val/acc": " of the validation images"}
    return next((f"{metrics[n]:.2%}{by}" for n, by in evaluates.items() if metrics.get(n) is not None), "")
