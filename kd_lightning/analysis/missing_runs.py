"""Command lines of `fit` for the runs that a notebook needs and that do not exist yet."""

import os
from collections.abc import Iterable
from pathlib import Path

from kd_lightning.errors import check_positive
from kd_lightning.io.paths import expand, resolve
from kd_lightning.runs.results import FILE as RESULTS


def missing_runs(
    configs: Iterable[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    *arguments: str,
    seeds: int = 3,
) -> list[list[str]]:
    """Return arguments of `kd_lightning.cli.main`: one list per config and seed without a finished run in `folder`.

    Runs are named after their config's file and seed (`kd-s0`) and log to their own folder only. From the shell,
    `python -m kd_lightning repeat` does the same and more.

    Args:
        configs: paths of `fit` configs.
        folder: folder of runs.
        *arguments: further arguments of `fit`, for all runs.
        seeds: number of seeds, counted from 0.

    Raises:
        ConfigError: for a config that does not exist.
    """
    check_positive(seeds=seeds)
    paths = [resolve(config, "configs") for config in configs]
    plans = []
    for seed in range(seeds):
        for path in paths:
            name = f"{path.stem}-s{seed}"
            if not any(expand(folder).glob(f"*/{name}/*/{RESULTS}")):
                run_arguments = [f"--seed_everything={seed}", f"--run.name={name}", f"--run.output_dir={Path(folder)}"]
                plans.append(["fit", f"--config={path}", *run_arguments, "--run.wandb=off", *arguments])
    return plans
