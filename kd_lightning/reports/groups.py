"""Groups of runs that differ only in their seed."""

import re
from collections import Counter
from typing import Any

from kd_lightning.reports.config import comparable_settings, differing_settings
from kd_lightning.reports.run_results import RunResult

MAX_LENGTH = 40


def grouped(runs: list[RunResult]) -> tuple[list[tuple[RunResult, str]], list[str]]:
    """Return each run with its group's label, sorted by group and seed, and one line per group with a repeated seed.

    A group has runs whose configs are equal except for the seed, the run's name and folders of the machine. If a seed
    occurs twice, runs with different names are separate groups, because a user has named them differently. Runs
    without a config are grouped by method, networks and name. A label is the most frequent run name without its seed.
    If a group has two runs with one seed, the one evaluated last is kept.
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
                f"{label}: a seed was repeated; the later run is compared, not {', '.join(superseded[:3])}{more}"
            )
        labelled += [(run, label) for run in latest_runs]
    return labelled, problems


def _parts(members: list[RunResult]) -> list[list[RunResult]]:
    """Split runs of one config by name and teacher if a seed occurs twice: two teachers' files may have one name."""
    seeds = [run.seed for run in members if run.seed is not None]
    if len({*seeds}) == len(seeds):
        return [members]
    parts: dict[tuple, list[RunResult]] = {}
    for run in members:
        key = without_seed(run.name, run.seed), run.results.run.get("teacher_fingerprint")
        parts.setdefault(key, []).append(run)
    return [*parts.values()]


def without_seed(name: str, seed: int | None) -> str:
    """Return a run's name without its seed (`kd-s0` gives `kd`), or the name itself if nothing would remain."""
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
    """Return a label for each group, unique within its data set."""
    labels = []
    for members in groups:
        (name, _), *_ = Counter(without_seed(run.name, run.seed) for run in members).most_common(1)
        labels.append(name if len(name) <= MAX_LENGTH else f"{name[: MAX_LENGTH - 3]}...")
    sets = [members[0].data_set for members in groups]
    for label, data_set in dict.fromkeys(zip(labels, sets, strict=True)):
        indices = [index for index, pair in enumerate(zip(labels, sets, strict=True)) if pair == (label, data_set)]
        if len(indices) < 2:
            continue
        tables = differing_settings({str(index): comparable_settings(groups[index][0].config) for index in indices})
        for count, index in enumerate(indices, 1):
            differences = [f"{key.rpartition('.')[2]} {values[str(index)]}" for key, values in [*tables.items()][:2]]
            described = (
                f"{label} ({', '.join(differences)})"
                if differences and len(", ".join(differences)) <= MAX_LENGTH
                else ""
            )
            other_labels = {labels[other] for other in range(len(labels)) if other != index and sets[other] == data_set}
            labels[index] = described if described and described not in other_labels else f"{label} #{count}"
    return labels
