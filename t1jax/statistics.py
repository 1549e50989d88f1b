# SPDX-License-Identifier: Apache-2.0
"""95 % intervals of shares, and of the difference of two shares.

Used by evaluator.py, scaling.py and report.py: every share that is printed has its interval.
Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference"; Newcombe (1998),
"Interval estimation for the difference between independent proportions", method 10.
Deliberately not here: means of anything that is not a share.
"""

from __future__ import annotations

import math

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
