"""Groups: the runs that differ in their seed alone, under one label."""

import re
from collections import Counter
from typing import Any

from kd_lightning.reports.config import compared, differing
from kd_lightning.reports.run_results import RunResult

LONGEST = 40


def grouped(runs: list[RunResult]) -> tuple[list[tuple[RunResult, str]], list[str]]:
    """Each run with its group's label, by group and seed; and a line for every group with a seed that was run again.

    Runs with the same config but for the seed, their own names and this machine's folders are a group (of the same
    name too, if they share a seed: somebody has told them apart); runs without a config are, by method, networks and
    name. A label is the most frequent run name without its seed. Of two runs of one group and seed the later evaluated
    one is kept.
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
        kept = sorted(latest.values(), key=lambda run: (run.seed is None, run.seed or 0))
        folders = {run.folder for run in kept}
        if left := [str(run.folder) for run in members if run.folder not in folders]:
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            problems.append(
                f"{label}: a seed was run again, the later run is compared; not {', '.join(left[:3])}{more}"
            )
        labelled += [(run, label) for run in kept]
    return labelled, problems


def _parts(members: list[RunResult]) -> list[list[RunResult]]:
    """A group of one config, by name and teacher where a seed comes twice: files of two teachers may have one name."""
    seeds = [run.seed for run in members if run.seed is not None]
    if len({*seeds}) == len(seeds):
        return [members]
    apart: dict[tuple, list[RunResult]] = {}
    for run in members:
        key = without_seed(run.name, run.seed), run.results.run.get("teacher_fingerprint")
        apart.setdefault(key, []).append(run)
    return [*apart.values()]


def without_seed(name: str, seed: int | None) -> str:
    """A run's name without its seed: `kd-s0` is `kd`; the name itself where nothing else would be left."""
    number = r"\d+" if seed is None else str(seed)
    found = re.search(rf"(^|[-_. ])(?:seed|s)[-_=]?{number}(?=$|[-_. ])", name)
    if not found:
        return name
    rest = name[: found.start()] + name[found.end() :]
    return (rest if found.start() else rest.lstrip("-_. ")) or name


def _key(run: RunResult) -> tuple:
    if run.config:
        return run.data_set, tuple(sorted((key, repr(value)) for key, value in compared(run.config).items()))
    facts = run.results.run
    select = run.results.protocol["select"]
    return run.data_set, facts["method"], facts["teacher"], facts["student"], select, without_seed(run.name, run.seed)


def _unique(groups: list[list[RunResult]]) -> list[str]:
    """A label for each group, unlike any other of its data set."""
    labels = []
    for members in groups:
        (name, _), *_ = Counter(without_seed(run.name, run.seed) for run in members).most_common(1)
        labels.append(name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}...")
    sets = [members[0].data_set for members in groups]
    for label, data_set in dict.fromkeys(zip(labels, sets, strict=True)):
        same = [place for place, pair in enumerate(zip(labels, sets, strict=True)) if pair == (label, data_set)]
        if len(same) < 2:
            continue
        tables = differing({str(place): compared(groups[place][0].config) for place in same})
        for count, place in enumerate(same, 1):
            said = [f"{key.rpartition('.')[2]} {values[str(place)]}" for key, values in [*tables.items()][:2]]
            named = f"{label} ({', '.join(said)})" if said and len(", ".join(said)) <= LONGEST else ""
            taken = {labels[other] for other in range(len(labels)) if other != place and sets[other] == data_set}
            labels[place] = named if named and named not in taken else f"{label} #{count}"
    return labels
