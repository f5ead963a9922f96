"""Warnings about differences between runs of one data set that make them less comparable."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kd_lightning.reports.config import comparable_settings
from kd_lightning.reports.frame import frame, metrics_of
from kd_lightning.reports.run_results import RunResult, Runs, abbreviate
from kd_lightning.reports.statistics import Test
from kd_lightning.runs.chance import NEIGHBORS, high_chance

_DATA_SETTINGS = (
    "augmentations view_augmentations mixing views repeats batch_size global_batch_size neighbors max_train_samples "
    "val_split"
).split()
MAX_VALUES = 6


def comparability(runs: Runs, baseline: str, *, test: Test = "t") -> list[str]:
    """Return one line for each difference between the runs of one data set; their methods may differ.

    Args:
        runs: runs of one data set.
        baseline: name of the group that is the baseline.
        test: statistical test, which needs a minimum number of seeds.
    """
    lines = [*_differences(runs), *_seeds(runs, baseline, test), *_resumed(runs), *_changed(runs), *_missing(runs)]
    lines += _by_chance(runs)
    if unknown := [run.name for run in runs if not run.config]:
        lines.append(f"config.yaml is missing, so the settings are unknown: {_named(unknown, runs)}")
    return lines


def _differences(runs: Runs) -> Iterable[str]:
    def data(name: str) -> Callable[[RunResult], Any]:
        return lambda run: run.results.data[name]

    def protocol(name: str) -> Callable[[RunResult], Any]:
        return lambda run: run.results.protocol[name]

    def code(name: str) -> Callable[[RunResult], Any]:
        return lambda run: run.results.code[name]

    def evaluator(name: str) -> Callable[[RunResult], Any]:
        return lambda run: run.results.evaluators.get(name)

    settings = {run.folder: comparable_settings(run.config) for run in runs}

    def setting(key: str, *, of_teacher: bool = False) -> Callable[[RunResult], Any]:
        def value(run: RunResult) -> Any:
            applies = run.config and (run.results.run["teacher"] or not of_teacher)  # Supervised has no teacher
            return settings[run.folder].get(key, "default") if applies else None

        return value

    fingerprinted = any(run.results.run["teacher_fingerprint"] for run in runs)

    evaluators = sorted({name for run in runs for name in run.results.evaluators})
    facts: dict[str, Callable[[RunResult], Any]] = {
        "training images": data("train"),
        "validation images": data("val"),
        "test images": data("test"),
        "image side": data("side"),
        "class names": lambda run: run.results.data["class_names"] and _fingerprint(run.results.data["class_names"]),
        "epochs": protocol("max_epochs"),
        "largest number of steps (trainer.max_steps)": setting("trainer.max_steps"),
        "selected checkpoint": protocol("select"),
        "student": lambda run: run.results.run["student"],
        "teacher": lambda run: run.results.run["teacher"],
        "teacher's weights": lambda run: (run.results.run["teacher_fingerprint"] or "")[:12] or None,
        **({} if fingerprinted else {"teacher's file": setting("model.teacher.checkpoint", of_teacher=True)}),
        "precision": setting("trainer.precision"),
        "devices": setting("trainer.devices"),
        **{f"data.{name}": setting(f"data.{name}") for name in _DATA_SETTINGS},
        "split_seed": setting("data.split_seed"),
        "accumulated batches": setting("trainer.accumulate_grad_batches"),
        "code version": code("version"),
        "commit": code("commit"),
        "torch": code("torch"),
        "timm": code("timm"),
        **{f"settings of {name}": evaluator(name) for name in evaluators},
    }
    for title, fact in facts.items():
        by_value: dict[str, list[RunResult]] = {}
        for run in runs:
            value = fact(run)
            if value is not None:
                by_value.setdefault(str(value), []).append(run)
        if len(by_value) > 1:
            values_by_count = sorted(by_value.items(), key=lambda item: -len(item[1]))
            parts = [f"{value} ({_groups_or_names(members, runs)})" for value, members in values_by_count[:MAX_VALUES]]
            parts += [f"{len(values_by_count) - MAX_VALUES} more"] * (len(values_by_count) > MAX_VALUES)
            yield f"{title} differ{'' if title.endswith('s') else 's'}: {'; '.join(parts)}"


def _seeds(runs: Runs, baseline: str, test: Test) -> Iterable[str]:
    sets = {group: sorted({run.seed for run in runs.of(group) if run.seed is not None}) for group in runs.groups}
    by_seeds: dict[tuple, list[str]] = {}
    for group, seeds in sets.items():
        by_seeds.setdefault(tuple(seeds), []).append(group)
    if len(by_seeds) > 1:
        parts = [f"{_seed_list(seeds)} ({abbreviate(groups)})" for seeds, groups in by_seeds.items()]
        yield f"seeds differ: {'; '.join(parts)}; only runs with common seeds are compared"
    common = {group: len({*seeds} & {*sets[baseline]}) for group, seeds in sets.items() if group != baseline}
    if few := [group for group, count in common.items() if count < 2]:
        yield f"fewer than 2 seeds in common with {baseline}, so there is no test: {abbreviate(few)}"
    if test == "wilcoxon" and (weak := [group for group, count in common.items() if 2 <= count < 6]):
        yield f"Wilcoxon's test cannot give p below 0.05 with fewer than 6 pairs: {abbreviate(weak)}"


def _resumed(runs: Runs) -> Iterable[str]:
    resumed = [run.name for run in runs if run.config.get("ckpt_path")]
    if resumed:
        yield f"started from another run's checkpoint: {_named(resumed, runs)}"
    partly = [run.name for run in runs if run.results.protocol["test_batches"] is not None]
    if partly:
        yield f"evaluated on a part of the test images (trainer.limit_test_batches): {_named(partly, runs)}"


def _changed(runs: Runs) -> Iterable[str]:
    changed = [run.name for run in runs if run.results.code["changed"]]
    if changed:
        yield f"the code had uncommitted changes: {_named(changed, runs)}"


def _by_chance(runs: Runs) -> Iterable[str]:
    """Yield a line for each share of common neighbours that is high even by chance, because there are few images."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for metric in run.metrics:
            match = re.fullmatch(r"(val|test)/neighbors(?:_(\d+))?", metric)
            images = run.results.data[match[1]] if match else None
            if images and (line := high_chance(metric, int(images), int(match[2] or NEIGHBORS))):
                found.setdefault(line, []).append(run.name)
    for line, names in found.items():
        yield f"{line} ({_named(names, runs)})"


def _missing(runs: Runs) -> Iterable[str]:
    """Yield a line for metrics that only some runs have; runs without a teacher need no metrics of a teacher."""
    by_lacking: dict[tuple[str, tuple[Path, ...]], list[str]] = {}
    for metric in metrics_of(frame(runs)):
        if metric.axis == "other" or not metric.name.startswith(("test/", "cost/")):
            continue
        needs_teacher = metric.axis == "faithfulness" or metric.name.endswith("_relative")
        applies = [run for run in runs if run.results.run["teacher"] or not needs_teacher]
        lacking = [run for run in applies if metric.name not in run.metrics]
        if lacking:
            by_lacking.setdefault((metric.axis, tuple(run.folder for run in lacking)), []).append(metric.name)
    for (axis, folders), metrics in by_lacking.items():
        lacking = [run for run in runs if run.folder in folders]
        yield f"{axis} is not evaluated for {_groups_or_names(lacking, runs)}: {abbreviate(metrics, 4)}"


def _groups_or_names(members: list[RunResult], runs: Runs) -> str:
    """Return the names of the groups if the members are all runs of these groups, otherwise the names of the runs."""
    groups = list(dict.fromkeys(run.group for run in members))
    if all(sum(run.group == group for run in members) == len(runs.of(group)) for group in groups):
        return abbreviate(groups)
    return abbreviate([run.name for run in members])


def _named(names: list[str], runs: Runs) -> str:
    return "all runs" if len(names) == len(runs) > 1 else abbreviate(names)


def _seed_list(seeds: tuple[int, ...]) -> str:
    return ", ".join(map(str, seeds)) or "none"


def _fingerprint(names: list[str]) -> str:
    return f"{', '.join(names[:3])}, ..." if len(names) > 3 else ", ".join(names)
