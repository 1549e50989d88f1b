# SPDX-License-Identifier: Apache-2.0
"""The shapes of T1's two figures, as margins: above 0 where curves have the shape, in the unit of the curves.

Accuracy by thinking budget, a curve for each share of RL (Figure 1 of the paper):
    flat_before         before RL more thinking changes little
    equal_at_smallest   after any RL accuracy at the smallest budget is nearly the same
    fans_out            at the largest budget accuracy rises with RL, and by more than at the smallest
Accuracy over the steps of RL, a curve for each number of responses per prompt:
    ordered_at_end      fewest responses lowest, most responses highest
    crossings           where two curves change places
"Little" and "nearly" are TOLERANCE times the rise of the last curve, so no shape holds where nothing rises. The
authors' own curves need 14 % and 8 %.
Source: T1 (arXiv 2501.11651), Figure 1 and the ablation of K; numbers in paper.py.
Deliberately not here: whether a margin is more than chance (significance.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Curve = Sequence[float]  # accuracy at each budget, or after each number of steps, ascending
TOLERANCE = 0.25  # share of the rise after all of RL


def rise(curve: Curve) -> float:
    """From the smallest budget to the largest."""
    return curve[-1] - curve[0]


def flat_before(curves: Sequence[Curve]) -> float:
    """TOLERANCE * rise of the last - (highest - lowest point of the first). `curves`: by share of RL, none first."""
    return TOLERANCE * rise(curves[-1]) - (max(curves[0]) - min(curves[0]))


def equal_at_smallest(curves: Sequence[Curve]) -> float:
    """TOLERANCE * rise of the last - (highest - lowest start), over the curves after any RL.

    Raises:
      ValueError: there are not two of these.
    """
    starts = [curve[0] for curve in _after_rl(curves)]
    return TOLERANCE * rise(curves[-1]) - (max(starts) - min(starts))


def fans_out(curves: Sequence[Curve]) -> float:
    """The least, over neighbours after any RL, of the gap at the largest budget and of its excess over the smallest's.

    Raises:
      ValueError: there are not two curves after any RL.
    """
    gaps = [(more[-1] - less[-1], more[0] - less[0]) for less, more in pairwise(_after_rl(curves))]
    return min(min(largest, largest - smallest) for largest, smallest in gaps)


def ordered_at_end(curves: Sequence[Curve]) -> float:
    """The lesser of: (lowest of the others - the first), (the last - highest of the others), at the end.

    Args:
      curves: by responses per prompt, fewest first; at least two.
    """
    ends = [curve[-1] for curve in curves]
    return min(min(ends[1:]) - ends[0], ends[-1] - max(ends[:-1]))


def crossings(at: Sequence[float], one: Curve, other: Curve) -> list[float]:
    """Where two curves change places, on straight lines between their points; equal points alone are no crossing.

    Args:
      at: the steps of the points, ascending.
    """
    found: list[float] = []
    last: tuple[float, float] | None = None  # (step, difference) of the last point at which they differ
    touched: float | None = None  # the first point since then at which they are equal
    for step, gap in zip(at, (b - a for a, b in zip(one, other, strict=True)), strict=True):
        if gap == 0:
            touched = step if touched is None else touched
            continue
        if last is not None and gap * last[1] < 0:
            found.append(touched if touched is not None else last[0] + (step - last[0]) * last[1] / (last[1] - gap))
        last, touched = (step, gap), None
    return found


def _after_rl(curves: Sequence[Curve]) -> Sequence[Curve]:
    if len(curves) < 3:
        raise ValueError(f"got {len(curves)} curves, expected one before RL and at least two after some of it")
    return curves[1:]
