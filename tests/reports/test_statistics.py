"""Statistics over seeds against scipy, statsmodels' published example values and hand calculations."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kd_lightning.errors import ConfigError
from kd_lightning.reports import against_baseline, holm

BASE = [0.70, 0.72, 0.71, 0.74, 0.69]
OTHERS = {"kd": [0.75, 0.74, 0.76, 0.77, 0.75], "sp": [0.71, 0.72, 0.73, 0.73, 0.70], "stkd": [0.8, 0.7, 0.9, 0.6, 0.8]}


def runs(values: dict[str, list[float]], seeds: dict[str, list[int]] | None = None) -> pd.DataFrame:
    rows = [
        {"group": group, "seed": seed, "test/acc": value}
        for group, column in values.items()
        for seed, value in zip((seeds or {}).get(group, range(len(column))), column, strict=True)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("test", ["t", "wilcoxon"])
def test_differences_are_scipys(test: str) -> None:
    found = against_baseline(runs({"base": BASE, **OTHERS}), "test/acc", "base", test=test)
    assert list(found.index) == ["base", *OTHERS]
    expected = []
    for group, values in OTHERS.items():
        row, paired = found.loc[group], stats.ttest_rel(values, BASE)
        interval = paired.confidence_interval(0.95)
        p = paired.pvalue if test == "t" else stats.wilcoxon(np.subtract(values, BASE)).pvalue
        assert row["mean"] == pytest.approx(np.mean(values))
        assert row["std"] == pytest.approx(np.std(values, ddof=1))
        assert row["difference"] == pytest.approx(np.mean(values) - np.mean(BASE))
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
        assert row["p"] == pytest.approx(p)
        assert (row["pairs"], row["note"]) == (5, "")
        expected.append(p)
    order = np.argsort(expected)
    by_hand, most = {}, 0.0
    for place, which in enumerate(order):
        most = max(most, min(1.0, expected[which] * (3 - place)))
        by_hand[which] = most
    assert found["p_holm"].iloc[1:].tolist() == pytest.approx([by_hand[n] for n in range(3)])
    assert found.loc["base", "note"] == "baseline"
    assert math.isnan(found.loc["base", "p_holm"])


def test_an_interval_by_hand() -> None:
    # differences 1, 2, 3: mean 2, std 1, t(2) = 4.302653 at 97.5 %: 2 -+ 4.302653 / sqrt 3
    found = against_baseline(runs({"a": [0, 0, 0], "b": [1, 2, 3]}), "test/acc", "a").loc["b"]
    half = 4.302652729696142 / math.sqrt(3)
    assert (found["low"], found["high"]) == pytest.approx((2 - half, 2 + half))


def test_holm_is_statsmodels() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.6])
    # statsmodels 0.15: multipletests(p, method="holm")[1]
    assert holm(p) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.6])
    with_gap = holm([0.01, math.nan, 0.04])
    assert with_gap[[0, 2]] == pytest.approx([0.02, 0.04])
    assert math.isnan(with_gap[1])
    assert holm([]).shape == (0,)


def test_holm_of_random_values_is_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    random = np.random.default_rng(0)
    for count in (1, 2, 7, 30):
        p = random.random(count) ** 3
        assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])


def test_only_common_seeds_are_paired() -> None:
    table = runs({"a": [0.5, 0.6, 0.7], "b": [0.9, 0.8, 0.95]}, {"a": [0, 1, 2], "b": [2, 1, 7]})
    row = against_baseline(table, "test/acc", "a").loc["b"]
    assert row["pairs"] == 2
    assert row["difference"] == pytest.approx(((0.9 - 0.7) + (0.8 - 0.6)) / 2)
    assert row["mean"] == pytest.approx(np.mean([0.9, 0.8, 0.95]))


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ([0.8], "no test: 1 common seed"),
        ([0.81, 0.82, 0.83], "no test: all differences are equal"),
        ([math.nan, math.nan, math.nan], "not evaluated"),
    ],
)
def test_where_there_is_no_test_it_says_so(values: list[float], note: str) -> None:
    row = against_baseline(runs({"a": [0.7, 0.71, 0.72], "b": values}), "test/acc", "a").loc["b"]
    assert row["note"] == note
    assert math.isnan(row["p"])
    assert math.isnan(row["low"])


def test_no_common_seed_and_a_baseline_that_was_not_evaluated() -> None:
    table = runs({"a": [0.7, 0.8], "b": [0.7, 0.9]}, {"b": [5, 6]})
    assert against_baseline(table, "test/acc", "a").loc["b", "note"] == "no test: no common seeds"
    table = runs({"a": [math.nan], "b": [0.7, 0.9]})
    assert against_baseline(table, "test/acc", "a").loc["b", "note"] == "the baseline was not evaluated"


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="no group 'bsae'; nearest: base"):
        against_baseline(runs({"base": BASE, **OTHERS}), "test/acc", "bsae")
    with pytest.raises(ConfigError, match="no run has 'test/ac'; nearest: test/acc"):
        against_baseline(runs({"base": BASE}), "test/ac", "base")
