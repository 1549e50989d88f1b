# SPDX-License-Identifier: Apache-2.0
"""Statistics against published numbers, enumeration of all choices, hand numbers and simulated coverage."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy.stats import binom

from t1jax.evaluation.statistics import Z95, bootstrap, difference, majority_at_k, pass_at_k, wilson


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


def by_trying_all(groups, abstained, k):
    """maj@k by going through every choice of k responses."""
    responses = [i for i, (size, _) in enumerate(groups) for _ in range(size)] + [None] * abstained
    chances = []
    for chosen in itertools.combinations(responses, k):
        votes = Counter(answer for answer in chosen if answer is not None)
        most = [answer for answer, count in votes.items() if count == max(votes.values())]
        chances.append(sum(groups[answer][1] for answer in most) / len(most) if most else 0.0)
    return sum(chances) / len(chances)


def test_pass_at_k_by_trying_all_choices():
    for n in range(1, 8):
        for right, k in itertools.product(range(n + 1), range(1, n + 1)):
            choices = list(itertools.combinations([True] * right + [False] * (n - right), k))
            expected = sum(any(choice) for choice in choices) / len(choices)
            assert pass_at_k(right, n, k) == pytest.approx(expected, abs=1e-15)


def test_pass_at_k_by_hand():
    assert pass_at_k(1, 2, 1) == 0.5
    assert pass_at_k(2, 5, 2) == pytest.approx(1 - 3 / 10)
    assert pass_at_k(1, 1000, 500) == 0.5  # where floats of C(n, k) would lose it
    assert pass_at_k(10, 100, 100) == 1.0 and pass_at_k(0, 100, 7) == 0.0


@pytest.mark.parametrize("right, n, k", [(1, 2, 3), (3, 2, 1), (-1, 2, 1), (0, 2, 0), (0, 0, 1)])
def test_pass_at_k_refuses_what_cannot_be(right, n, k):
    with pytest.raises(ValueError, match="pass_at_k"):
        pass_at_k(right, n, k)


@pytest.mark.parametrize(
    "groups, abstained",
    [
        ([(3, 1.0), (2, 0.0)], 0),
        ([(2, 1.0), (2, 0.0), (2, 0.0)], 0),
        ([(1, 0.0), (2, 0.0), (1, 1.0)], 3),
        ([(2, 1.0), (1, 1.0), (3, 0.0), (1, 0.5)], 2),
        ([(1, 1.0), (1, 0.0), (1, 0.0), (1, 0.0), (1, 0.0), (1, 0.0)], 1),
        ([(4, 0.25), (4, 1.0)], 1),
        ([], 3),
        ([(5, 1.0)], 0),
    ],
)
def test_majority_by_trying_all_choices(groups, abstained):
    n = abstained + sum(size for size, _ in groups)
    expected = [by_trying_all(groups, abstained, k) for k in range(1, n + 1)]
    np.testing.assert_allclose(majority_at_k(groups, abstained, range(1, n + 1)), expected, atol=1e-12)


def test_majority_by_hand():
    # 2 of 4 right, two wrong answers: of the 4 choices of 3, two hold both right ones (1), two one of each (1/3)
    assert majority_at_k([(2, 1.0), (1, 0.0), (1, 0.0)], 0, [1, 3, 4]) == pytest.approx([0.5, (2 + 2 / 3) / 4, 1.0])
    assert majority_at_k([(2, 1.0), (2, 0.0)], 0, [4]) == [0.5]  # a tie is won in half of the cases
    assert majority_at_k([(1, 1.0)], 3, [1, 4]) == pytest.approx([0.25, 1.0])  # who has no answer does not vote
    assert majority_at_k([], 2, [1, 2]) == [0.0, 0.0]


def test_majority_of_many_responses_keeps_its_precision():
    found = majority_at_k([(60, 1.0), (40, 0.0), (20, 0.0), *[(1, 0.0)] * 20], 860, [1, 1000])
    assert found == pytest.approx([0.06, 1.0], rel=1e-9)


@pytest.mark.parametrize("groups, abstained, ks", [([(1, 1.0)], 0, [2]), ([(0, 1.0)], 1, [1]), ([(1001, 0.0)], 0, [1])])
def test_majority_refuses_what_cannot_be(groups, abstained, ks):
    with pytest.raises(ValueError, match="majority_at_k"):
        majority_at_k(groups, abstained, ks)


def test_bootstrap_of_shares_nears_the_binomial():
    """The mean of resampled zeros and ones is a binomial share: its quantiles are known."""
    values = np.r_[np.ones(30), np.zeros(70)][:, None]
    (low,), (high,) = bootstrap(values)
    np.testing.assert_allclose([low, high], binom.ppf([0.025, 0.975], 100, 0.3) / 100, atol=0.011)
    assert bootstrap(values) == bootstrap(values)
    uneven = np.arange(50.0)[:, None] ** 0.5
    assert bootstrap(uneven) == bootstrap(uneven) != bootstrap(uneven, seed=1)


def test_bootstrap_covers_in_95_percent_of_samples():
    random = np.random.default_rng(0)
    samples = random.beta(0.5, 1.0, (60, 400))  # 400 benchmarks of 60 problems
    covered = 0
    for column in range(0, 400, 100):  # one interval a column; their columns are independent draws
        low, high = bootstrap(samples[:, column : column + 100], seed=column, resamples=1000)
        covered += int(((low <= 1 / 3) & (1 / 3 <= high)).sum())
    assert 0.90 < covered / 400 < 0.98


def test_bootstrap_leaves_missing_values_out():
    values = np.array([[1.0, np.nan, 5.0], [0.0, np.nan, np.nan], [1.0, np.nan, 5.0]])
    low, high = bootstrap(values)
    assert (low[0], high[0]) == (0.0, 1.0)
    assert np.isnan([low[1], high[1]]).all()
    assert (low[2], high[2]) == (5.0, 5.0)
    assert np.isnan(bootstrap(np.zeros((0, 2)))[0]).all()


def test_bootstrap_of_many_problems():
    """More problems than fit at once: the interval shrinks with their square root, and no resample is left out."""
    values = np.tile([[0.0], [1.0]], (4000, 1))
    low, high = bootstrap(values, resamples=1500)  # three parts of 500
    assert high[0] - low[0] == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(8000), rel=0.08)
