# SPDX-License-Identifier: Apache-2.0
"""Tests over seeds: intervals and p by hand and by tables, Holm by enumeration, power by simulation and by tables."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from t1jax.studies.significance import MOST, holm, mean_interval, p_value, power, seeds_needed, spread


def test_the_interval_by_hand_and_by_tables():
    mean, low, high = mean_interval([1.0, 2.0, 6.0])
    half = 4.3027 * math.sqrt(7 / 3)  # s^2 = (4 + 1 + 9) / 2
    np.testing.assert_allclose((mean, low, high), (3.0, 3.0 - half, 3.0 + half), atol=1e-3)
    for n, quantile in ((2, 12.7062), (5, 2.7764), (20, 2.0930), (31, 2.0423)):  # of printed tables
        values = np.random.default_rng(n).normal(size=n)
        half = quantile * values.std(ddof=1) / math.sqrt(n)
        np.testing.assert_allclose(
            mean_interval(list(values))[1:], (values.mean() - half, values.mean() + half), atol=1e-4
        )


def test_the_interval_of_one_run_is_unknown_and_of_none_refused():
    mean, low, high = mean_interval([0.3])
    assert mean == 0.3 and math.isnan(low) and math.isnan(high) and math.isnan(spread([0.3]))
    with pytest.raises(ValueError, match="got no values"):
        mean_interval([])


def test_p_by_hand_and_by_scipy():
    t2 = 9 * 3 / 7  # of 1, 2, 6: mean^2 n / s^2; with two degrees of freedom p = 1 - t / sqrt(t^2 + 2)
    assert math.isclose(p_value([1.0, 2.0, 6.0]), 1 - math.sqrt(t2 / (t2 + 2)))
    assert p_value([-1.0, -2.0, -6.0]) == p_value([1.0, 2.0, 6.0])
    for n in range(2, 9):
        values = np.random.default_rng(n).normal(0.5, size=n)
        assert math.isclose(p_value(list(values)), stats.ttest_1samp(values, 0).pvalue)
    assert p_value([0.0, 0.0, 0.0]) == 1 and math.isnan(p_value([0.2]))


def test_the_same_with_each_seed_is_judged_by_the_sign_test():
    """Two runs of 256 problems can gain 56 right answers each, by chance: that is no proof."""
    for n in range(2, 9):
        for value in (0.21875, -0.3):
            assert math.isclose(p_value([value] * n), stats.binomtest(n, n).pvalue)
    assert p_value([0.3 - 0.1, 0.2]) == 0.5  # the same up to rounding
    assert p_value([0.21875, 0.22265625]) < 0.05


def test_p_and_the_interval_say_the_same():
    for seed in range(200):
        values = list(np.random.default_rng(seed).normal(0.8, size=2 + seed % 7))
        _, low, high = mean_interval(values)
        assert (p_value(values) < 0.05) == (low > 0 or high < 0)


def test_holm_by_hand():
    """0.005 * 4, 0.01 * 3, 0.03 * 2; 0.04 is not below the one before it."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == [] and holm([0.2]) == [0.2]
    np.testing.assert_allclose(holm([0.02, 0.02, 0.02]), [0.06] * 3)
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="expected each from 0 to 1"):
            holm([0.5, wrong])


def test_holm_is_the_closed_test_of_bonferroni():
    """A claim is told apart if Bonferroni rejects every set of claims that it is in: all sets are enumerated."""
    for seed in range(30):
        p = np.random.default_rng(seed).beta(0.3, 1, size=1 + seed % 6)
        sets = [s for size in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), size)]
        expected = [max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in range(len(p))]
        np.testing.assert_allclose(holm(list(p)), expected)


@pytest.mark.parametrize("effect, n", [(0.5, 5), (1.5, 5), (-1.5, 5), (1.0, 10), (12.0, 2), (11.0, 2), (0.0, 4)])
def test_power_by_simulation(effect, n):
    """How often the test itself, on normal samples, tells the effect apart: 200,000 studies."""
    drawn = np.random.default_rng(0).normal(effect, 1.0, size=(200_000, n))
    t = drawn.mean(1) * math.sqrt(n) / drawn.std(1, ddof=1)
    found = np.mean(np.abs(t) > stats.t.ppf(0.975, n - 1))
    assert abs(power(effect, 1.0, n) - found) < 0.004
    assert math.isclose(power(10 * effect, 10.0, n), power(effect, 1.0, n))


def test_power_is_that_of_scipys_noncentral_t():
    """Where SciPy has it: it is NaN for large effects."""
    for effect, n in itertools.product((0.0, 0.1, 0.7, 2.0), (2, 3, 5, 20, 500)):
        t, df, m = stats.t.ppf(0.975, n - 1), n - 1, effect * math.sqrt(n)
        if m < 12:
            assert math.isclose(power(effect, 1.0, n), stats.nct.sf(t, df, m) + stats.nct.cdf(-t, df, m), abs_tol=1e-5)


@pytest.mark.parametrize("effect, n", [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10), (2.0, 5)])
def test_seeds_needed_as_in_tables(effect, n):
    """Cohen's d -> n for a paired test, two-sided at 5 %, power 80 %: as G*Power and published tables have it."""
    assert seeds_needed(effect, 1.0) == n == seeds_needed(-3 * effect, 3.0)
    assert power(effect, 1.0, n) >= 0.8 > power(effect, 1.0, n - 1)


@pytest.mark.parametrize(("claims", "n"), [(3, 20), (21, 29)])
def test_several_claims_need_more_seeds(claims, n):
    """By SciPy's noncentral t at 5 % / claims; five standard deviations of 200,000 draws are 0.0045."""
    assert seeds_needed(0.8, 1.0, claims) == n
    chances = [stats.nct.sf(stats.t.ppf(1 - 0.025 / claims, m - 1), m - 1, 0.8 * math.sqrt(m)) for m in (n - 1, n)]
    assert chances[0] < 0.8 <= chances[1]
    drawn = np.random.default_rng(0).normal(0.8, 1, (200_000, n))
    t = drawn.mean(1) * math.sqrt(n) / drawn.std(1, ddof=1)
    told_apart = stats.t.sf(t, n - 1) * 2 * claims < 0.05  # as Holm's first
    assert abs(np.mean(told_apart) - power(0.8, 1.0, n, claims)) < 0.0045


def test_seeds_needed_at_the_ends():
    assert seeds_needed(12.0, 1.0) == 2 and seeds_needed(11.0, 1.0) == 3  # by the simulation above
    assert seeds_needed(1e9, 1.0) == 2 and seeds_needed(0.1, 0.0) is None
    assert seeds_needed(0.0, 1.0) is None and seeds_needed(0.3, math.nan) is None
    assert seeds_needed(1e-9, 1.0) is None
    needed = seeds_needed(0.0285, 1.0)
    assert needed is not None and 0.9 * MOST < needed < MOST
