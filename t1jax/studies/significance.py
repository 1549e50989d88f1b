# SPDX-License-Identifier: Apache-2.0
"""Whether a difference over seeds is more than chance: interval, p, Holm's correction, and the seeds that would tell.

... -> evaluate -> **report**, over several runs. Every claim of a study is tested on one number a seed (a measure, or
the difference of two arms that started from the same weights), so all of it is Student's one-sample test, two-sided.
Arms without shared seeds do not occur here. Shares of a few hundred problems can be the same with each seed, by chance:
their spread is then not known rather than none, and the sign test judges.
Source: Student (1908), "The probable error of a mean"; Holm (1979), "A simple sequentially rejective multiple test
procedure"; power by the noncentral t distribution: Cohen (1988), "Statistical power analysis", chapter 2. SciPy has the
distributions.
Deliberately not here: intervals of shares of problems (evaluation/statistics.py), which claims (claims.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special, stats

LEVEL, POWER = 0.05, 0.8
POINTS = 2001  # of the integral over the estimated standard deviation
ROUNDING = 1e-12  # of what is measured: values that differ by less are the same
MOST = 10_000  # seeds: what would need more is as good as never told apart


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): the 95 % interval of a mean over runs with different seeds, by Student's distribution.

    mean -+ t s / sqrt(n),  s^2 = sum (x - mean)^2 / (n - 1); low and high are NaN for a single run.

    Raises:
      ValueError: no values.
    """
    n, mean = len(values), _mean(values)
    half = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * spread(values) / math.sqrt(n) if n > 1 else math.nan
    return mean, mean - half, mean + half


def spread(values: Sequence[float]) -> float:
    """s, the standard deviation over seeds, with n - 1; NaN for a single one. ValueError: no values."""
    n, mean = len(values), _mean(values)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1)) if n > 1 else math.nan


def no_spread(values: Sequence[float]) -> bool:
    """Whether the values are the same, up to rounding."""
    return max(values) - min(values) <= ROUNDING * max(map(abs, values))


def p_value(values: Sequence[float]) -> float:
    """The chance of a mean at least this far from 0 if the true one is 0: two-sided; NaN for a single value.

    t = mean sqrt(n) / s. Of values that are all the same, the sign test: 2 / 2^n, or 1 if they are 0.
    """
    n, mean, s = len(values), _mean(values), spread(values)
    if n > 1 and no_spread(values):
        return 2.0 ** (1 - n) if mean else 1.0
    return float(2 * stats.t.sf(abs(mean) * math.sqrt(n) / s, n - 1)) if n > 1 else math.nan


def holm(p: Sequence[float]) -> list[float]:
    """p after Holm's correction for testing all of these claims, in their order.

    With p_(1) <= ... <= p_(m): max over j <= i of min(1, (m - j + 1) p_(j)). Claims with a corrected p below 0.05 are
    told apart; the chance that any of them is by luck is at most 5 %, whatever depends on what.

    Raises:
      ValueError: a p is not from 0 to 1.
    """
    if not all(0 <= x <= 1 for x in p):
        raise ValueError(f"holm: got p = {list(p)}, expected each from 0 to 1")
    corrected, least = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - rank) * p[place]))
        corrected[place] = least
    return corrected


def power(effect: float, s: float, seeds: int, claims: int = 1) -> float:
    """The chance that a true `effect` is told apart from 0, with this many seeds and standard deviation `s`.

    P(|T| > t), T noncentral with n - 1 degrees of freedom and noncentrality m = effect sqrt(n) / s:
    the mean of Phi(m - t r) + Phi(-m - t r) over r, the ratio of the estimated to the true standard deviation, which is
    chi-distributed. (SciPy's nct is NaN for m above about 15.)

    Args:
      effect: in the unit of `s`; its sign does not matter.
      s: above 0.
      seeds: at least 2.
      claims: p is compared with 5 % / claims, which Holm's correction does for the first of so many; for the last, 5 %.
    """
    df, m = seeds - 1, abs(effect) * math.sqrt(seeds) / s
    t = float(stats.t.ppf(1 - LEVEL / claims / 2, df))
    low, high = stats.chi.ppf((1e-12, 1 - 1e-12), df)  # beyond, there is nothing to add up
    chi = np.linspace(low, high, POINTS)
    bound = t * chi / math.sqrt(df)
    told_apart = special.ndtr(m - bound) + special.ndtr(-m - bound)
    return float(np.trapezoid(stats.chi.pdf(chi, df) * told_apart, chi))


def seeds_needed(effect: float, s: float, claims: int = 1) -> int | None:
    """The fewest seeds that tell `effect` apart from 0 with a power of 80 %; None: more than 10,000, or s is NaN or 0.

    Args:
      claims: as for `power`.
    """
    if not effect or math.isnan(s) or s <= ROUNDING * abs(effect):
        return None
    if power(effect, s, 2, claims) >= POWER:
        return 2
    if power(effect, s, MOST, claims) < POWER:
        return None
    few, enough = 2, 4
    while power(effect, s, enough, claims) < POWER:
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if power(effect, s, middle, claims) >= POWER else (middle, enough)
    return enough


def _mean(values: Sequence[float]) -> float:
    if not values:
        raise ValueError("got no values, expected one for each seed")
    return math.fsum(values) / len(values)
