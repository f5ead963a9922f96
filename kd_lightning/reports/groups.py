"""Groups of runs that differ only in their seed."""

import re
from collections import Counter
from typing import Any

from kd_lightning.reports.config import comparable_settings, differing_settings
from kd_lightning.reports.run_results import RunResult
from kd_lightning.reports.varied import shown_values, titles

MAX_LENGTH = 40


def grouped(runs: list[RunResult]) -> tuple[list[tuple[RunResult, str]], list[str]]:
    """Return each run with the label of its group, sorted by group and seed, and lines about repeated seeds.

    The runs of a group have equal configs, except for the seed, the name of the run and folders of the machine. If a
    seed occurs twice in such a group, the runs are split into groups by their names. Runs without a config are grouped
    by method, networks and name. The label of a group is the most frequent name of its runs, without the seed. If a
    group still has two runs with the same seed, only the run that was evaluated last is kept.
    """
    by_key: dict[tuple, list[RunResult]] = {}
    for run in runs:
        by_key.setdefault(_key(run), []).append(run)
    groups = [part for members in by_key.values() for part in _parts(members)]
    labelled, problems = [], []
    for label, members in zip(_unique(groups), groups, strict=True):
        latest: dict[Any, RunResult] = {}
        for run in sorted(members, key=lambda run: (run.results.protocol["evaluated"] or "", str(run.folder))):
            latest[run.folder if run.seed is None else run.seed] = run
        latest_runs = sorted(latest.values(), key=lambda run: (run.seed is None, run.seed or 0))
        folders = {run.folder for run in latest_runs}
        if superseded := [str(run.folder) for run in members if run.folder not in folders]:
            more = f" and {len(superseded) - 3} more" if len(superseded) > 3 else ""
            problems.append(
                f"{label}: a seed was used twice; the later run is compared, not {', '.join(superseded[:3])}{more}"
            )
        labelled += [(run, label) for run in latest_runs]
    return labelled, problems


def _parts(members: list[RunResult]) -> list[list[RunResult]]:
    """Split runs of one config by name and teacher if a seed occurs twice.

    The teachers can differ although the configs are equal, because the files of two teachers may have the same name.
    """
    seeds = [run.seed for run in members if run.seed is not None]
    if len({*seeds}) == len(seeds):
        return [members]
    parts: dict[tuple, list[RunResult]] = {}
    for run in members:
        key = without_seed(run.name, run.seed), run.results.run.get("teacher_fingerprint")
        parts.setdefault(key, []).append(run)
    return [*parts.values()]


def without_seed(name: str, seed: int | None) -> str:
    """Return the name of a run without its seed (`kd` for `kd-s0`); if nothing would remain, return the name itself."""
    number = r"\d+" if seed is None else str(seed)
    match = re.search(rf"(^|[-_. ])(?:seed|s)[-_=]?{number}(?=$|[-_. ])", name)
    if not match:
        return name
    rest = name[: match.start()] + name[match.end() :]
    return (rest if match.start() else rest.lstrip("-_. ")) or name


def _key(run: RunResult) -> tuple:
    if run.config:
        return run.data_set, tuple(sorted((key, repr(value)) for key, value in comparable_settings(run.config).items()))
    facts = run.results.run
    select = run.results.protocol["select"]
    return run.data_set, facts["method"], facts["teacher"], facts["student"], select, without_seed(run.name, run.seed)


def _unique(groups: list[list[RunResult]]) -> list[str]:
    """Return a label for each group; labels are unique within a data set."""
    labels = []
    for members in groups:
        (name, _), *_ = Counter(without_seed(run.name, run.seed) for run in members).most_common(1)
        labels.append(name if len(name) <= MAX_LENGTH else f"{name[: MAX_LENGTH - 3]}...")
    sets = [members[0].data_set for members in groups]
    for label, data_set in dict.fromkeys(zip(labels, sets, strict=True)):
        indices = [index for index, pair in enumerate(zip(labels, sets, strict=True)) if pair == (label, data_set)]
        if len(indices) < 2:
            continue
        differing = differing_settings({str(index): comparable_settings(groups[index][0].config) for index in indices})
        shown = {title: shown_values(key, differing[key]) for key, title in [*titles(differing).items()][:2]}
        for count, index in enumerate(indices, 1):
            differences = [f"{title} {values[str(index)]}" for title, values in shown.items()]
            described = (
                f"{label} ({', '.join(differences)})"
                if differences and len(", ".join(differences)) <= MAX_LENGTH
                else ""
            )
            other_labels = {labels[other] for other in range(len(labels)) if other != index and sets[other] == data_set}
            labels[index] = described if described and described not in other_labels else f"{label} #{count}"
    return labels
