# SPDX-License-Identifier: Apache-2.0
"""Axes of the charts: positions, round ticks, and values as text.

Deliberately not here: the chart around them (charts.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from t1jax.reports.page import escape

Place = Callable[[float], float]  # a value -> its share of the way along an axis
EDGE = 0.025  # share of the height beyond values at an end, so that lines and dots there are inside of it as a whole
NARROW, WIDE = 0.16, 0.06  # least distance of labels of the x axis, share of its width: on a phone, elsewhere


def number(value: float, percent: bool, step: float = 0.0) -> str:
    """A value as text: 62.1 %, 0.318, 48.8, 1,204. `step`: distance of ticks, which limits the digits; 0: none."""
    if percent:
        text = f"{100 * value:.{1 if step < 0.0099 else 0}f} %"
    elif step:
        short = 1e-4 <= step and abs(value) < 1e6
        text = f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}" if short else f"{value:.3g}"
    elif value and not 1e-3 <= abs(value) < 1e7:
        text = f"{value:.2e}"
    else:
        text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def ticks_between(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers from `low` to `high`: 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def linear(low: float, high: float) -> Place:
    """x -> its share of the way from low to high."""
    return (lambda x: (x - low) / (high - low)) if high > low else (lambda x: 0.5)


def logarithmic(xs: Sequence[float]) -> Place:
    """x -> its share of the way on a log scale; 0 is placed an octave below the smallest other value."""
    least = min((x for x in xs if x > 0), default=1.0)

    def octave(x: float) -> float:
        return math.log2(x) if x > 0 else math.log2(least) - 1

    line = linear(octave(xs[0]), octave(xs[-1]))
    return lambda x: line(octave(x))


def y_axis(values: Sequence[float], percent: bool) -> tuple[float, float, list[tuple[float, float]]]:
    """(bottom, top, [(tick, distance of ticks)]) for these values, which are at least EDGE away from both ends."""
    low, high = min(values), max(values)
    if percent:
        low, high = max(0.0, low), min(1.0, max(high, low + 0.02, 0.02))
    room = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
    bottom, top = low - room, high + room
    if low >= 0 and (percent or low < 0.5 * high):
        bottom = 0.0
    if percent:
        bottom, top = max(0.0, bottom), min(1.0, top)
    ticks = ticks_between(bottom, top, 5)
    edge = EDGE * (top - bottom) / (1 - 2 * EDGE)
    bottom, top = min(bottom, low - edge), max(top, high + edge)
    return bottom, top, [(v, ticks[1] - ticks[0] if len(ticks) > 1 else 0.0) for v in ticks]


def whole_ticks(first: float, last: float) -> list[float]:
    """Whole numbers for the x axis."""
    ticks = [x for x in ticks_between(first, last, 6) if x == round(x)]
    return ticks if len(ticks) > 1 else sorted({first, last})


def x_labels(labels: Sequence[tuple[float, str]]) -> str:
    """Labels of the x axis, without those that would touch; further ones are hidden on a phone."""
    shown, narrow, wide = [], -1.0, -1.0
    for at, text in labels:
        if at - wide < WIDE:
            continue
        wide = at
        kind = "gx" if at - narrow >= NARROW else "gx roomy"
        narrow = at if kind == "gx" else narrow
        shown.append(f'<span class="{kind}" style="left:{100 * at:.2f}%">{escape(text)}</span>')
    return "".join(shown)
