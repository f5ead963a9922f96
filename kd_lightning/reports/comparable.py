"""What makes runs of one data set less comparable than they look, a line each."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kd_lightning.reports.axes import describe
from kd_lightning.reports.config import compared
from kd_lightning.reports.frame import frame, metrics_of
from kd_lightning.reports.run_results import RunResult, Runs, some
from kd_lightning.reports.statistics import Test

_SEEING = "augmentations mixing views repeats batch_size global_batch_size neighbors train_images val_split".split()
MOST_VALUES = 6


def comparability(runs: Runs, baseline: str, *, test: Test = "t") -> list[str]:
    """A line for each way in which the runs of one data set differ beside their methods.

    Args:
        runs: of one data set.
        baseline: a group.
        test: the test that seeds are to be enough for.
    """
    lines = [*_differences(runs), *_seeds(runs, baseline, test), *_resumed(runs), *_changed(runs), *_missing(runs)]
    if unknown := [run.name for run in runs if not run.config]:
        lines.append(f"settings unknown, there is no config.yaml: {_named(unknown, runs)}")
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

    settings = {run.folder: compared(run.config) for run in runs}

    def setting(key: str, *, of_teacher: bool = False) -> Callable[[RunResult], Any]:
        def value(run: RunResult) -> Any:
            asked = run.config and (run.results.run["teacher"] or not of_teacher)  # labels alone need no teacher
            return settings[run.folder].get(key, "default") if asked else None

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
        "steps at most (trainer.max_steps)": setting("trainer.max_steps"),
        "selected checkpoint": protocol("select"),
        "student": lambda run: run.results.run["student"],
        "teacher": lambda run: run.results.run["teacher"],
        "teacher's weights": lambda run: (run.results.run["teacher_fingerprint"] or "")[:12] or None,
        **({} if fingerprinted else {"teacher's file": setting("model.teacher.checkpoint", of_teacher=True)}),
        "precision": setting("trainer.precision"),
        "devices": setting("trainer.devices"),
        **{f"data.{name}": setting(f"data.{name}") for name in _SEEING},
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
            most = sorted(by_value.items(), key=lambda item: -len(item[1]))
            told = [f"{value} ({_who(members, runs)})" for value, members in most[:MOST_VALUES]]
            told += [f"{len(most) - MOST_VALUES} more"] * (len(most) > MOST_VALUES)
            yield f"{title} differ{'' if title.endswith('s') else 's'}: {'; '.join(told)}"


def _seeds(runs: Runs, baseline: str, test: Test) -> Iterable[str]:
    sets = {group: sorted({run.seed for run in runs.of(group) if run.seed is not None}) for group in runs.groups}
    by_seeds: dict[tuple, list[str]] = {}
    for group, seeds in sets.items():
        by_seeds.setdefault(tuple(seeds), []).append(group)
    if len(by_seeds) > 1:
        told = [f"{_seed_list(seeds)} ({some(groups)})" for seeds, groups in by_seeds.items()]
        yield f"seeds differ: {'; '.join(told)}; differences are of the common ones"
    common = {group: len({*seeds} & {*sets[baseline]}) for group, seeds in sets.items() if group != baseline}
    if few := [group for group, count in common.items() if count < 2]:
        yield f"fewer than 2 seeds in common with {baseline}, so no test: {some(few)}"
    if test == "wilcoxon" and (weak := [group for group, count in common.items() if 2 <= count < 6]):
        yield (
            f"Wilcoxon's test cannot give p below 0.05 with fewer than 6 pairs, whatever the values are: {some(weak)}"
        )


def _resumed(runs: Runs) -> Iterable[str]:
    resumed = [run.name for run in runs if run.config.get("ckpt_path")]
    if resumed:
        yield f"resumed from another run's checkpoint: {_named(resumed, runs)}"
    partly = [run.name for run in runs if run.results.protocol["test_batches"] is not None]
    if partly:
        yield f"evaluated on a part of the test images (trainer.limit_test_batches): {_named(partly, runs)}"


def _changed(runs: Runs) -> Iterable[str]:
    changed = [run.name for run in runs if run.results.code["changed"]]
    if changed:
        yield f"run with code that was not committed: {_named(changed, runs)}"


def _missing(runs: Runs) -> Iterable[str]:
    """Metrics that some runs have and others lack; what needs a teacher is not missed where there is none."""
    by_lack: dict[tuple[str, tuple[Path, ...]], list[str]] = {}
    for metric in metrics_of(frame(runs)):
        if metric.axis == "other" or not metric.name.startswith(("test/", "cost/")):
            continue
        to_a_teacher = metric.axis == "faithfulness" or metric.name.endswith("_relative")
        asked = [run for run in runs if run.results.run["teacher"] or not to_a_teacher]
        lack = [run for run in asked if metric.name not in run.metrics]
        if lack:
            by_lack.setdefault((metric.axis, tuple(run.folder for run in lack)), []).append(metric.name)
    for (axis, folders), metrics in by_lack.items():
        lack = [run for run in runs if run.folder in folders]
        yield f"{axis} is not evaluated for {_who(lack, runs)}: {some([describe(name).name for name in metrics], 4)}"


def _who(members: list[RunResult], runs: Runs) -> str:
    """The runs by their groups where these are whole, else one by one."""
    groups = list(dict.fromkeys(run.group for run in members))
    if all(sum(run.group == group for run in members) == len(runs.of(group)) for group in groups):
        return some(groups)
    return some([run.name for run in members])


def _named(names: list[str], runs: Runs) -> str:
    return "all runs" if len(names) == len(runs) > 1 else some(names)


def _seed_list(seeds: tuple[int, ...]) -> str:
    return ", ".join(map(str, seeds)) or "none"


def _fingerprint(names: list[str]) -> str:
    return f"{', '.join(names[:3])}, ..." if len(names) > 3 else ", ".join(names)
