# SPDX-License-Identifier: Apache-2.0
"""Intervals against published numbers, an independent implementation and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from t1jax.statistics import Z95, difference, wilson


def test_wilson_gives_published_numbers():
    # Newcombe (1998), Statistics in Medicine 17:857, table I, method 3
    for successes, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (1, 29, 0.0061, 0.1718)):
        np.testing.assert_allclose(wilson(successes, n), (low, high), atol=5e-5)


def test_wilson_solves_its_defining_equation():
    # the ends are the shares p at which the observed share is Z95 standard errors away
    for successes, n in ((3, 10), (270, 1024), (999, 1000)):
        for p in wilson(successes, n):
            assert abs(successes / n - p) == pytest.approx(Z95 * np.sqrt(p * (1 - p) / n))


def test_wilson_at_the_ends_and_without_trials():
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(0, 20)
    assert low == 0.0 and 0.1 < high < 0.2
    assert wilson(20, 20) == (pytest.approx(1 - high), 1.0)


@pytest.mark.parametrize("successes, n", [(-1, 5), (6, 5), (0, -1)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="successes in"):
        wilson(successes, n)


def test_wilson_covers_in_95_percent_of_samples():
    n = 200
    for p in (0.05, 0.3, 0.9):
        covered = [low <= p <= high for low, high in (wilson(k, n) for k in range(n + 1))]
        assert 0.93 < float(binom.pmf(np.arange(n + 1), n, p) @ np.array(covered)) < 0.975


def test_difference_gives_published_numbers():
    # Newcombe (1998), Statistics in Medicine 17:873, table II, method 10: 56/70 minus 48/80
    before, after = (48 / 80, *wilson(48, 80)), (56 / 70, *wilson(56, 70))
    np.testing.assert_allclose(difference(before, after), (0.0524, 0.3339), atol=5e-5)


def test_difference_of_a_fall_mirrors_that_of_a_rise():
    low_share, high_share = (0.2, 0.15, 0.27), (0.7, 0.62, 0.75)
    low, high = difference(low_share, high_share)
    assert difference(high_share, low_share) == (pytest.approx(-high), pytest.approx(-low))
