"""Means over seeds, and differences to a baseline between runs with the same seed."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from kd_lightning.errors import ConfigError, nearest

Test = Literal["t", "wilcoxon"]


def against_baseline(
    frame: pd.DataFrame, metric: str, baseline: str, *, test: Test = "t", confidence: float = 0.95
) -> pd.DataFrame:
    """Return statistics of a metric for each group, and the difference between each group and the baseline.

    A run and the baseline's run with the same seed form a pair. The two runs have the same images in the same order.
    The interval is always that of Student's paired t-test. Holm's procedure corrects p for the number of comparisons of
    this metric.

    Args:
        frame: table with one row per run, and the columns `group`, `seed` and the metric (a result of `frame`).
        metric: name of the metric's column. Missing values are skipped.
        baseline: name of the group that is the baseline.
        test: two-sided test of the paired differences: `t` is Student's t-test, `wilcoxon` is Wilcoxon's signed-rank
            test.
        confidence: level of the interval.

    Returns:
        A table with one row per group. `n` is the number of values. `mean` and `std` are their mean and standard
        deviation (with the divisor n - 1). `pairs` is the number of pairs. `difference` is the mean difference, and
        `low` and `high` are its interval. `p` and `p_holm` are the p-values before and after the correction. `note` is
        the reason if there is no test. Undefined values are NaN.

    Raises:
        ConfigError: for an unknown baseline or metric.
    """
    groups = list(dict.fromkeys(frame["group"]))
    if baseline not in groups:
        raise ConfigError(f"baseline: there is no group {baseline!r}{nearest(baseline, groups)}")
    if metric not in frame:
        raise ConfigError(f"metric: no run has {metric!r}{nearest(metric, map(str, frame.columns))}")
    complete = frame.dropna(subset=[metric])
    by_seed = {group: _by_seed(complete[complete["group"] == group], metric) for group in groups}
    rows = {}
    for group in groups:
        values = complete.loc[complete["group"] == group, metric].to_numpy(float)
        row = {"n": len(values), "mean": _mean(values), "std": _std(values)}
        if group == baseline:
            rows[group] = {**row, "pairs": 0, "note": "baseline"}
            continue
        pairs = pd.concat([by_seed[group], by_seed[baseline]], axis=1, join="inner").to_numpy(float)
        rows[group] = {**row, **_difference(pairs, test, confidence)}
        if not len(values) or by_seed[baseline].empty:
            rows[group]["note"] = "not evaluated" if not len(values) else "the baseline was not evaluated"
    columns = ["n", "mean", "std", "pairs", "difference", "low", "high", "p", "p_holm", "note"]
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=columns)
    table["p_holm"] = holm(table["p"].to_numpy(float))
    return table.astype({"n": int, "pairs": int})


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return p-values after Holm's correction (1979, a step-down procedure); NaN values are ignored and remain NaN."""
    p = np.asarray(p, dtype=float)
    corrected = np.full_like(p, math.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return corrected


def _difference(pairs: np.ndarray, test: Test, confidence: float) -> dict[str, float | int | str]:
    """Return the statistics of N pairs, given as an array N,2."""
    differences, count = pairs[:, 0] - pairs[:, 1], len(pairs)
    values: dict[str, float | int | str] = {"pairs": count, "difference": _mean(differences), "note": ""}
    if count < 2:
        return {**values, "note": f"no test: {count or 'no'} common seed{'' if count == 1 else 's'}"}
    if np.ptp(differences) <= 1e-12 * np.abs(pairs).max():  # equal up to rounding
        return {**values, "note": "no test: all differences are equal"}
    result = stats.ttest_1samp(differences, 0)
    low, high = result.confidence_interval(confidence)
    p = result.pvalue if test == "t" else stats.wilcoxon(differences).pvalue
    return {**values, "low": float(low), "high": float(high), "p": float(p)}


def _by_seed(rows: pd.DataFrame, metric: str) -> pd.Series:
    return rows.dropna(subset=["seed"]).groupby("seed")[metric].mean()


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _std(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan
