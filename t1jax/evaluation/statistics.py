# SPDX-License-Identifier: Apache-2.0
"""95 % intervals over problems, and what several responses to a problem say together: pass@k and maj@k.

... -> **evaluate** -> report: every figure that is printed has its interval.

Axes: P problems, Y measures, Z resamples.
Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference"; Newcombe (1998),
"Interval estimation for the difference between independent proportions", method 10; pass@k: Chen et al. (2021), arXiv
2107.03374, equation 1; majority voting: Wang et al. (2022), arXiv 2203.11171.
Deliberately not here: which responses count (evaluation/figures.py), intervals over seeds (studies/significance.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval (low, high) of a share of `successes` in `n` trials; (0, 1) when n = 0.

    centre = (p + z^2 / 2n) / (1 + z^2 / n),  half width = z sqrt(p (1 - p) / n + z^2 / 4n^2) / (1 + z^2 / n)
    """
    if not 0 <= successes <= n:
        raise ValueError(f"wilson: got {successes} successes in {n} trials, expected 0 <= successes <= trials")
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    scale = 1 + Z95**2 / n
    centre = (p + Z95**2 / (2 * n)) / scale
    half = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2)) / scale
    low = 0.0 if successes == 0 else centre - half  # exact at the ends, where rounding would miss by 1e-17
    high = 1.0 if successes == n else centre + half
    return low, high


@dataclass(frozen=True)
class Share:
    """A share, `count` of `n`, with its 95 % Wilson interval."""

    count: int
    n: int

    @property
    def value(self) -> float | None:
        """None when n = 0."""
        return self.count / self.n if self.n else None

    @property
    def low(self) -> float:
        return wilson(self.count, self.n)[0]

    @property
    def high(self) -> float:
        return wilson(self.count, self.n)[1]


def difference(before: tuple[float, float, float], after: tuple[float, float, float]) -> tuple[float, float]:
    """The 95 % interval (low, high) of after - before, each given as (share, low, high) with a Wilson interval.

    low = d - sqrt((a - a_low)^2 + (b_high - b)^2),  high = d + sqrt((a_high - a)^2 + (b - b_low)^2),  d = a - b.
    For independent samples; where both answered the same problems it is, if anything, too wide.
    """
    b, b_low, b_high = before
    a, a_low, a_high = after
    low = (a - b) - math.hypot(a - a_low, b_high - b)
    high = (a - b) + math.hypot(a_high - a, b - b_low)
    return low, high


def pass_at_k(right: int, n: int, k: int) -> float:
    """The unbiased estimate, from `n` responses, of the chance that at least one of `k` is right.

    1 - C(n - right, k) / C(n, k): the share of all choices of k of the n responses that hold a right one.

    Raises:
      ValueError: not 0 <= right <= n, or not 1 <= k <= n: no estimate from fewer than k responses is unbiased.
    """
    if not (0 <= right <= n and 1 <= k <= n):
        raise ValueError(f"pass_at_k: got {right} right of {n} at k = {k}, expected 0 <= right <= n and 1 <= k <= n")
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def majority_at_k(groups: Sequence[tuple[int, float]], abstained: int, ks: Sequence[int]) -> list[float]:
    """The chance that the most frequent answer of `k` responses is right, for each k of `ks`: maj@k.

    The expectation over all choices of k of the n responses, exactly: it depends on no order and on no luck, as the
    first k responses or a few random choices would. Where several answers are equally frequent, each wins with the
    same chance. Where nobody votes, the answer is wrong. maj@1 is the share of right responses.

    With v votes for answer i, the other answers may have up to v each: the coefficient of x^(k - v) in
      C(size_i, v) * (1 + x)^abstained * prod_j (sum_{u < v} C(size_j, u) x^u + y C(size_j, v) x^v)
    counts the choices, and y the ties: t of them leave answer i a chance of 1 / (1 + t).

    Args:
      groups: (how many responses gave this answer, the share of them that is right), one for each different answer.
      abstained: responses without an answer. They can be among the k, and do not vote.
      ks: 1 .. n, n being the number of responses, at most 1000: binomial coefficients are float64.

    Raises:
      ValueError: a k, a size or n out of range.
    """
    n = abstained + sum(size for size, _ in groups)
    if n > 1000 or abstained < 0 or any(size < 1 for size, _ in groups) or not all(1 <= k <= n for k in ks):
        raise ValueError(f"majority_at_k: got sizes {groups}, {abstained} abstained, ks {ks}; expected 1 <= k <= n")
    choices = [np.array([math.comb(size, u) for u in range(size + 1)], float) for size, _ in groups]
    won = np.zeros(n + 1)  # [k]: choices of k responses, in which a right answer wins
    for i, (size, right) in enumerate(groups):
        for v in range(1, size + 1) if right else ():
            ways = np.zeros((n // v + 1, n + 1))  # [ties, votes]: choices of responses other than those of answer i
            ways[0, : abstained + 1] = [math.comb(abstained, u) for u in range(abstained + 1)]
            for other in choices[:i] + choices[i + 1 :]:
                more = np.zeros_like(ways)
                for u in range(min(v, len(other))):
                    more[:, u:] += other[u] * ways[:, : n + 1 - u]
                if v < len(other):
                    more[1:, v:] += other[v] * ways[:-1, : n + 1 - v]
                ways = more
            chance = 1 / np.arange(1, len(ways) + 1)
            won[v:] += right * choices[i][v] * (chance @ ways)[: n + 1 - v]
    return [float(won[k] / math.comb(n, k)) for k in ks]


def bootstrap(values_PY: np.ndarray, seed: int = 0, resamples: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap intervals (low float64[Y], high float64[Y]) of each column's mean over problems.

    Problems are drawn with replacement, the same ones for all columns, so columns may be compared. Responses are not
    drawn: a problem's value already is a mean over them, and its noise is part of the spread over problems.

    Args:
      values_PY: float[P, Y]; NaN where a problem has no value of a measure: it is left out of that mean.
      seed: the same seed gives the same interval.
      resamples: Z.

    A column without values has the interval (NaN, NaN).
    """
    P, Y = values_PY.shape
    known_PY = ~np.isnan(values_PY)
    both = np.concatenate([np.where(known_PY, values_PY, 0), known_PY], axis=1)
    random = np.random.default_rng(seed)
    mean_ZY = np.full((resamples, Y), np.nan)
    part = max(1, 4_000_000 // max(P, 1))  # resamples at once, to save memory
    for start in range(0, resamples if P else 0, part):
        Z = min(part, resamples - start)
        drawn_ZP = random.integers(P, size=(Z, P)) + P * np.arange(Z)[:, None]
        times_ZP = np.bincount(drawn_ZP.ravel(), minlength=Z * P).reshape(Z, P)
        total_ZY, count_ZY = np.split(times_ZP @ both, 2, axis=1)
        np.divide(total_ZY, count_ZY, out=mean_ZY[start : start + Z], where=count_ZY > 0)
    low_Y, high_Y = np.full(Y, np.nan), np.full(Y, np.nan)
    for m in np.flatnonzero(known_PY.any(axis=0)):
        low_Y[m], high_Y[m] = np.nanquantile(mean_ZY[:, m], (0.025, 0.975))
    return low_Y, high_Y
