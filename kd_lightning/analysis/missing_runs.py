"""Command lines of `fit` for the runs that a notebook needs, if they do not exist yet."""

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
    """Return arguments of `kd_lightning.cli.main`: one list for each config and seed that has no finished run.

    The name of a run consists of the name of the config's file and the seed (`kd-s0`). The runs do not log to W&B. On
    the command line, `python -m kd_lightning repeat` starts such runs.

    Args:
        configs: paths of configs of `fit`.
        folder: folder of the runs.
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
