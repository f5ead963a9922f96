"""The default baseline of a comparison, and the line that names it if other groups could also be the baseline."""

import shlex
from collections import Counter

from kd_lightning.reports.run_results import Runs

METHOD = "Supervised"


def default_baseline(runs: Runs) -> tuple[str, str | None]:
    """Return the default baseline, and a line if several groups could be the baseline, otherwise None.

    The baseline is the group of Supervised. If there are several, it is the one whose student network is the network
    of most groups of other methods. If several remain, it is the one that was evaluated first, so that runs that are
    added later do not change the baseline. Without a group of Supervised, it is the first group.

    Args:
        runs: runs of one data set.
    """
    first = {group: runs.of(group)[0] for group in runs.groups}
    candidates = [group for group, run in first.items() if run.method == METHOD]
    if not candidates:
        return runs.groups[0], None
    networks = Counter(run.results.run["student"] for run in first.values() if run.method != METHOD)
    counts = {group: networks[first[group].results.run["student"]] for group in candidates}
    remaining = [group for group in candidates if counts[group] == max(counts.values())]
    baseline, *others = sorted(remaining, key=lambda group: (_evaluated(runs, group), group))
    if not others:
        return baseline, None
    other = shlex.quote(others[0])
    return baseline, (
        f"{len(remaining)} groups of {METHOD}; the baseline is {baseline}; choose another with --baseline={other}"
    )


def _evaluated(runs: Runs, group: str) -> str:
    """Return when the first run of a group was evaluated. A group without a time is sorted last."""
    return min(run.results.protocol["evaluated"] or "9999" for run in runs.of(group))
