# SPDX-License-Identifier: Apache-2.0
"""Charts of the report as HTML: lines, bands and points that can be read at any width, in print and without JavaScript.

The lines of a chart are an SVG that stretches with its box, with strokes of constant width. Labels are HTML placed in
percent, so they stay legible on a phone. The values are embedded as JSON; assets/charts.js shows those under the
pointer. Charts of one group share their x axis: pointing at a step in one shows it in all.
Deliberately not here: which charts there are (curves.py), axes and their labels (axes.py), PNGs (plots.py).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

from t1jax.reports.axes import Place, linear, logarithmic, number, whole_ticks, x_labels, y_axis
from t1jax.reports.page import escape, visible

SCRIPTS, STYLES = ("charts.js",), ("charts.css", "controls.css")  # in assets/: what a page with charts needs
SIDE = 1000.0  # of the SVG's square of coordinates
DASH = 8  # pixels of a line that lies upon others
MOST = 400  # points of a line; more are averaged in runs (curves.py)


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    label: str  # plain text; "" where there is nothing to tell apart
    colour: str  # before | after | 1 .. 6: a class of charts.css, s-NAME
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()  # 95 % interval of each y; () where there is none
    high: Sequence[float] = ()
    trend: Sequence[float] = ()  # running mean of y, drawn over it
    names: Sequence[str] = ()  # of the points, instead of "step 7"
    points: bool = False  # few measurements: dots with whiskers; else a line with a band
    dashed: bool = False
    run: str = ""  # the switch that shows and hides it


@dataclass(frozen=True)
class Chart:
    """A figure: lines over one x axis."""

    name: str  # letters, digits and _: the figure's id is chart-NAME
    title: str  # plain text, with the unit
    caption: str
    series: Sequence[Series]
    group: str  # charts that are pointed at together
    x_label: str
    point: str = "step"  # what an x is called: "step 7"
    percent: bool = False
    log: bool = False  # x on a log scale, each x labelled; 0 has a place below the smallest


def figure(chart: Chart) -> str:
    """The chart as HTML; "" if it has no value."""
    series = [s for s in chart.series if len(s.x)]
    if not series:
        return ""
    xs = sorted({float(x) for s in series for x in s.x})
    place = logarithmic(xs) if chart.log else linear(xs[0], xs[-1])
    bottom, top, ticks = y_axis([v for s in series for v in (*s.y, *s.low, *s.high)], chart.percent)
    height = linear(bottom, top)
    grid = "".join(
        f'<i class="gy" style="top:{100 - 100 * height(v):.2f}%"><span>{escape(number(v, chart.percent, v_step))}'
        "</span></i>"
        for v, v_step in ticks
    )
    labels = x_labels([(place(x), f"{x:,.0f}") for x in (xs if chart.log else whole_ticks(xs[0], xs[-1]))])
    places = beside(series, 0.004 * (top - bottom))
    lines = "".join(_lines(s, place, height, _dashes(*at)) for s, at in zip(series, places, strict=True))
    values = _values(chart, series, xs)
    left = [round(100 * place(x), 2) for x in xs]
    tops = []
    for s in series:
        of = dict(zip(map(float, s.x), s.y, strict=True))
        tops.append([round(100 - 100 * height(of[x]), 2) if x in of else None for x in xs])
    names = _names(chart, series, xs)
    data = {
        "group": chart.group, "x": xs, "at": names, "left": left,
        "series": [
            {"run": s.run, "label": visible(s.label), "colour": f"s-{s.colour}", "text": t, "top": y}
            for s, t, y in zip(series, values, tops, strict=True)
        ],
    }  # fmt: skip
    said = "; ".join(f"{s.label} {_last(t)}".strip() for s, t in zip(series, values, strict=True))
    keys = "".join(_key(s, t) for s, t in zip(series, values, strict=True))
    return (
        f'<figure class="chart" id="chart-{chart.name}"><h3>{escape(chart.title)}</h3>'
        f'<div class="readout{" many" if len(series) > 4 else ""}"><span class="at">last</span>{keys}</div>'
        f'<div class="plot" role="img" aria-label="{escape(f"{chart.title}, at the end: {said}")}"><div class="area">'
        f'{grid}{labels}<svg viewBox="0 0 {SIDE:.0f} {SIDE:.0f}" preserveAspectRatio="none" aria-hidden="true">{lines}'
        f'</svg></div></div><div class="xlabel">{escape(chart.x_label)}</div>'
        f"<figcaption>{escape(chart.caption)}</figcaption>{embedded(data)}</figure>"
    )


def grid(charts: Sequence[Chart]) -> str:
    """Charts side by side as HTML; "" if none has a value."""
    drawn = "".join(figure(chart) for chart in charts)
    return f'<div class="grid charts">{drawn}</div>' if drawn else ""


def beside(series: Sequence[Series], near: float) -> list[tuple[int, int]]:
    """(place, size) of each line in the group of lines that it lies upon somewhere, for two neighbouring x or more.

    Args:
      near: values no further apart than this are drawn on each other.
    """
    of = [dict(zip(map(float, s.x), s.trend if len(s.trend) else s.y, strict=True)) for s in series]

    def meet(one: dict[float, float], other: dict[float, float]) -> bool:
        same = [abs(one[x] - other[x]) <= near for x in sorted(one.keys() & other.keys())]
        return any(a and b for a, b in itertools.pairwise(same))

    groups: list[list[int]] = []
    for i, line in enumerate(of):
        met = [group for group in groups if any(meet(line, of[j]) for j in group)]
        groups = [group for group in groups if group not in met] + [[j for group in met for j in group] + [i]]
    places = {i: (place, len(group)) for group in groups for place, i in enumerate(sorted(group))}
    return [places[i] for i in range(len(series))]


def _dashes(place: int, size: int) -> str:
    """Style of a line that lies upon others: each in turn shows DASH pixels, the first wherever later ones do not."""
    if not place:
        return ""
    on, off = DASH * (size - place), DASH * place
    return f"stroke-dasharray:{on} {off};stroke-dashoffset:{-off};stroke-linecap:butt"


def embedded(data: object) -> str:
    """Data for the page's script as JSON in which nothing can be parsed as markup."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return f'<script type="application/json">{text}</script>'


def _lines(s: Series, place: Place, height: Place, dashes: str = "") -> str:
    """The SVG of one series. `dashes`: style of its line."""
    styled = f' style="{dashes}"' if dashes and not s.dashed else ""

    def at(x: float, y: float) -> str:
        return f"{SIDE * place(x):.1f} {SIDE * (1 - height(y)):.1f}"

    def path(kind: str, d: str, style: str = "") -> str:
        return f'<path class="{kind}"{style} d="{d}"/>'

    def way(ys: Sequence[float]) -> str:
        return "M" + "L".join(at(x, y) for x, y in zip(s.x, ys, strict=True))

    parts = []
    if len(s.low) and s.points:
        spans = zip(s.x, s.low, s.high, strict=True)
        parts.append(path("whisker", "".join(f"M{at(x, low)}L{at(x, high)}" for x, low, high in spans)))
    elif len(s.low):
        back = [at(x, y) for x, y in zip(reversed(s.x), reversed(s.low), strict=True)]
        parts.append(path("band", f"{way(s.high)}L{'L'.join(back)}Z"))
    if len(s.trend):
        parts += [path("raw", way(s.y)), path("line", way(s.trend), styled)]
    else:
        parts.append(path("thin" if s.points else "line", way(s.y), styled))
    if s.points or len(s.x) < 16:
        dots = "".join(f"M{at(x, y)}h0" for x, y in zip(s.x, s.y, strict=True))
        parts += [path("dots", dots), path("hole", dots)] if s.dashed else [path("dots", dots)]
    run = f' data-run="{s.run}"' if s.run else ""
    return f'<g class="s-{s.colour}{" dashed" if s.dashed else ""}"{run}>{"".join(parts)}</g>'


def _values(chart: Chart, series: Sequence[Series], xs: Sequence[float]) -> list[list[str | None]]:
    """The readout of each series at each x; None where it has no value."""
    found = []
    for s in series:
        texts: dict[float, str] = {}
        for i, (x, y) in enumerate(zip(s.x, s.y, strict=True)):
            text = number(y, chart.percent)
            if len(s.low):
                low, high = ((100 if chart.percent else 1) * end for end in (s.low[i], s.high[i]))
                text += f" [{low:.1f}, {high:.1f}]"
            texts[float(x)] = text
        found.append([texts.get(x) for x in xs])
    return found


def _names(chart: Chart, series: Sequence[Series], xs: Sequence[float]) -> list[str]:
    given = {float(x): name for s in series if len(s.names) for x, name in zip(s.x, s.names, strict=True)}
    return [visible(given.get(x, f"{chart.point} {x:,.0f}")) for x in xs]


def _last(texts: Sequence[str | None]) -> str:
    return next((text for text in reversed(texts) if text is not None), "")


def _key(s: Series, texts: Sequence[str | None]) -> str:
    """A line's swatch, name and value in the readout, as wide as its widest value."""
    width = max(len(text) for text in texts if text is not None)
    run = f' data-run="{s.run}"' if s.run else ""
    label = f"{escape(s.label)} " if s.label else ""
    kind = f"key s-{s.colour}{' dashed' if s.dashed else ''}{' round' if s.points else ''}"
    return (
        f'<span class="{kind}"{run}><i class="swatch"></i>{label}'
        f'<b style="min-width:{width}ch">{escape(_last(texts))}</b></span>'
    )
