"""The settings that differ between groups of the same method: which are shown, and their titles and values."""

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from kd_lightning.reports.config import comparable_settings, differing_settings
from kd_lightning.reports.run_results import RunResult, Runs
from kd_lightning.runs.differences import short_names

MOST_SETTINGS = 6
NOT_SHOWN = ("data.path", "data.split_seed")
"""Settings whose differences are warnings, and not settings that are compared."""
_CONSEQUENCES = ("model.student.pretrained", "model.teacher.pretrained")
"""Settings that follow from another setting: a network with a checkpoint is not pretrained."""
_NETWORKS = {"model.student": "student", "model.teacher": "teacher"}
_OF_A_RUN = ("student.safetensors", "best.ckpt", "last.ckpt")
"""Files of a run's folder, whose path ends in `<name>/<id>/<file>`."""
Varied = Mapping[str, Mapping[str, Any]]
"""Values by group, for each setting."""


def varied(runs: Runs) -> Varied:
    """Return the settings that differ between groups of the same method, with their values by group.

    A checkpoint of a run is shown as the name of this run. The result is empty if more than MOST_SETTINGS settings
    differ, because the groups then differ in everything.
    """
    configs = _configs(runs)
    by_method: dict[str, dict[str, dict[str, Any]]] = {}
    for group, (method, config) in configs.items():
        by_method.setdefault(method, {})[group] = config
    names = dict.fromkeys(name for groups in by_method.values() for name in differing_settings(groups))
    names = [name for name in names if name not in NOT_SHOWN]
    names = [name for name in names if name not in _CONSEQUENCES or not _siblings(name, names)]
    if len(names) > MOST_SETTINGS:
        return {}
    names.sort(key=lambda name: name.removesuffix(".name"))  # a network precedes its other settings
    values = {name: {g: config[name] for g, (_, config) in configs.items() if name in config} for name in names}
    return {name: shown_values(name, by_group) for name, by_group in values.items()}


def titles(names: Iterable[str]) -> dict[str, str]:
    """Return a short title for each setting: `lr` for `model.optimizer.lr`, `student` for `model.student.name`.

    The title of a setting of a network begins with the network, such as `student checkpoint`.
    """
    of_networks, others = {}, []
    for name in names:
        network, _, field = name.rpartition(".")
        if role := _NETWORKS.get(network):
            of_networks[name] = role if field == "name" else f"{role} {field}"
        else:
            others.append(name)
    short = short_names(others) | of_networks
    return {name: short[name] for name in names}


def shown_values(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a setting by group. A checkpoint of a run is replaced by the name of the run.

    If two runs have the same name, the identifiers of the runs are added. If two paths then still look the same, they
    are returned unchanged.
    """
    if not name.endswith(".checkpoint"):
        return {**values}
    for parts in (1, 2):
        short = {group: _run_of(value, parts) for group, value in values.items()}
        if len({*short.values()}) == len({*values.values()}):
            return short
    return {**values}


def _run_of(path: Any, parts: int) -> Any:
    """Return the name of the run that wrote a checkpoint, with `parts` 2 also its identifier; or the path itself."""
    folders = PurePath(str(path)).parts
    if len(folders) < 3 or folders[-1] not in _OF_A_RUN:
        return path
    return "/".join(folders[-3 : -3 + parts])


def _siblings(name: str, names: list[str]) -> bool:
    network = name.rpartition(".")[0]
    return f"{network}.name" in names or f"{network}.checkpoint" in names


def _configs(runs: Runs) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the method and the settings of each group whose config is known."""
    first: dict[str, RunResult] = {}
    for run in runs:
        first.setdefault(run.group, run)
    return {group: (run.method, comparable_settings(run.config)) for group, run in first.items() if run.config}
