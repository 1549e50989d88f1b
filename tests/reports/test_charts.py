# SPDX-License-Identifier: Apache-2.0
"""Charts put every value where it belongs, with and without script, and hold no markup but their own."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_up import HOSTILE, Reader, example_results, example_rows

from t1jax.reports import axes, curves
from t1jax.reports.axes import number, ticks_between
from t1jax.reports.charts import Chart, Series, figure, grid
from t1jax.reports.page import assets
from t1jax.reports.runs import Run


def drawn(chart):
    """(the figure's data, {class of a path: its points}) of the first series."""
    html = figure(chart)
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])
    paths = {}
    for kind, d in re.findall(r'<path class="(\w+)" d="([^"]*)"', html):
        paths.setdefault(kind, [tuple(map(float, p.split())) for p in re.findall(r"[\d.]+ [\d.]+", d)])
    return data, paths


def chart(*series, **more):
    return Chart("name", "Title", "Caption", series, "rl", "step of RL", **more)


def test_a_line_goes_through_its_values():
    line = Series("", "after", [1, 2, 3, 5], [0.0, 10.0, 5.0, 20.0])
    data, paths = drawn(chart(line))
    np.testing.assert_allclose(data["left"], [0, 25, 50, 100])
    assert [x for x, _ in paths["line"]] == [0, 250, 500, 1000]
    height = np.array([y for _, y in paths["line"]])  # downwards
    np.testing.assert_allclose((height[0] - height) / (height[0] - height[3]), [0, 0.5, 0.25, 1], atol=1e-3)
    np.testing.assert_allclose(np.array(data["series"][0]["top"]) * 10, height, atol=0.1)
    assert data["series"][0]["text"] == ["0", "10", "5", "20"] and data["at"] == [
        "step 1",
        "step 2",
        "step 3",
        "step 5",
    ]


def test_gridlines_stand_where_their_labels_say():
    html = figure(chart(Series("", "after", [1, 2], [0.2, 0.8]), percent=True))
    data = json.loads(re.search(r'json">(.*?)</script>', html)[1])
    labels = {int(v): float(top) for top, v in re.findall(r'class="gy" style="top:([\d.]+)%"><span>(\d+) %', html)}
    assert len(labels) >= 4
    slope = (data["series"][0]["top"][1] - data["series"][0]["top"][0]) / 60  # percent of the height per point
    for value, top in labels.items():
        assert top == pytest.approx(data["series"][0]["top"][0] + slope * (value - 20), abs=0.05)


def test_a_band_runs_along_the_top_and_back_along_the_bottom():
    line = Series("", "after", [1, 2], [0.4, 0.5], [0.3, 0.4], [0.5, 0.7])
    data, paths = drawn(chart(line, percent=True))
    (x0, top0), (x1, top1), (x2, low1), (x3, low0) = paths["band"]
    assert [x0, x1, x2, x3] == [0, 1000, 1000, 0]
    assert top0 < paths["line"][0][1] < low0 and top1 < paths["line"][1][1] < low1
    assert data["series"][0]["text"][1] == "50.0 % [40.0, 70.0]"


def test_points_measured_here_and_there_have_whiskers_and_leave_gaps():
    line = Series("training", "after", [1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4])
    held = Series("held out", "3", [0, 4], [0.1, 0.5], [0.05, 0.4], [0.2, 0.6], points=True)
    data, paths = drawn(chart(line, held, percent=True))
    assert data["x"] == [0, 1, 2, 3, 4]
    assert data["series"][0]["text"][0] is None and data["series"][0]["top"][0] is None
    assert data["series"][1]["text"] == ["10.0 % [5.0, 20.0]", None, None, None, "50.0 % [40.0, 60.0]"]
    (a, high), (b, low) = paths["whisker"][2:]
    assert a == b == 1000 and high != low and "band" not in paths


def test_budgets_are_an_octave_apart_and_zero_has_a_place():
    line = Series("", "after", [0, 4, 8, 16], [0.1, 0.2, 0.3, 0.4])
    data, _ = drawn(chart(line, log=True, point="budget"))
    np.testing.assert_allclose(data["left"], [0, 33.33, 66.67, 100])
    assert data["at"][0] == "budget 0"


def test_one_value_and_equal_values_are_drawn_inside():
    for line in (Series("", "after", [3], [0.0]), Series("", "after", [1, 2], [7.0, 7.0])):
        data, _ = drawn(chart(line))
        assert all(0 <= v <= 100 for v in (*data["left"], *data["series"][0]["top"]))
    assert figure(chart(Series("", "after", [], []))) == ""


@pytest.mark.parametrize("percent", [True, False])
@pytest.mark.parametrize("values", [[0, 0, 0], [1, 1, 1], [0, 0.5, 1], [0.2, 0.21, 0.22], [-3, 0, 900]])
def test_a_line_at_an_end_of_its_axis_is_inside_with_all_its_width(values, percent):
    """A dot is 7.5 pixels wide, of an area of 182: 2.06 % on each side."""
    data, paths = drawn(chart(Series("", "after", [1, 2, 3], values), percent=percent and min(values) >= 0))
    assert all(2.1 <= top <= 97.9 for top in data["series"][0]["top"]), data["series"][0]["top"]


def seen(html):
    """How many of 320 pixels along lines that lie on each other show each colour, by the dashes of those above."""
    on_top = {}
    for colour, _, on, off, start in re.findall(
        r'<g class="s-(\w+)"><path class="line"( style="stroke-dasharray:(\d+) (\d+);stroke-dashoffset:-(\d+))?', html
    ):
        on, off, start = int(on or 1), int(off or 0), int(start or 0)
        on_top |= {pixel: colour for pixel in range(320) if (pixel - start) % (on + off) < on}
    return Counter(on_top.values())


@pytest.mark.parametrize("count", [1, 2, 4])
def test_lines_that_lie_on_each_other_are_all_seen(count):
    names = ("after", "3", "4", "5")[:count]
    lines = [Series(name, name, range(1, 41), [0.0] * 40) for name in names]
    assert seen(figure(chart(*lines, percent=True))) == dict.fromkeys(names, 320 // count)


def test_a_line_that_only_crosses_another_is_whole():
    up, down = Series("up", "after", [1, 2, 3], [0, 1, 2]), Series("down", "3", [1, 2, 3], [2, 1, 0])
    assert "dasharray" not in figure(chart(up, down))
    part = Series("part", "4", [1, 2, 3], [0, 1, 0.5])
    assert figure(chart(up, part)).count("dasharray") == 1


def test_labels_that_would_touch_stay_out_and_those_for_wide_screens_are_marked():
    budgets = [4, 8, 16, 24, 32, 48, 64, 96, 128]
    html = figure(chart(Series("", "after", budgets, [0.1] * 9), log=True))
    found = re.findall(r'class="gx( roomy)?" style="left:([\d.]+)%">([\d,]+)<', html)
    shown = [text for _, _, text in found]
    assert set(shown) <= {str(b) for b in budgets} and len(shown) >= 7
    places = [float(at) for roomy, at, _ in found if not roomy]
    assert np.diff(places).min() >= 100 * axes.NARROW and len(places) >= 4
    close = figure(chart(Series("", "after", [4, 64, 66, 128], [0.1] * 4), log=True))
    assert re.findall(r'class="gx.*?>(\d+)<', close) == ["4", "64", "128"]


def test_numbers_as_people_read_them():
    percents = {(0.6213,): "62.1 %", (0.2, 0.2): "20 %", (0.005, 0.005): "0.5 %"}
    assert {args: number(args[0], True, *args[1:]) for args in percents} == percents
    plain = {(1203.7,): "1,204", (-0.01234,): "−0.0123", (3e-6,): "3.00e-06", (0.5, 0.1): "0.5", (40, 20): "40"}
    plain |= {(2.5e-6, 5e-7): "2.5e-06", (0,): "0", (48.83,): "48.8"}
    assert {args: number(args[0], False, *args[1:]) for args in plain} == plain


@pytest.mark.parametrize("low, high", [(0, 1), (0.02, 0.93), (-3.7, 12.2), (1e-6, 4e-6), (1, 2800), (5, 5)])
def test_ticks_are_round_even_and_inside(low, high):
    ticks = ticks_between(low, high, 5)
    assert 1 <= len(ticks) <= 7 and all(low - 1e-9 <= t <= high + 1e-9 for t in ticks)
    if high > low:
        assert len(ticks) >= 2
        np.testing.assert_allclose(np.diff(ticks), ticks[1] - ticks[0])
        assert f"{ticks[1] - ticks[0]:.0e}"[0] in "125"


def test_hostile_names_are_shown_and_inert():
    line = Series(HOSTILE, "1", [1, 2], [1, 2], names=[HOSTILE, HOSTILE], run="r0")
    html = figure(Chart("name", HOSTILE, HOSTILE, [line], "rl", HOSTILE))
    reader = Reader(html)
    assert {tag for tag, _ in reader.tags} <= set("figure h3 div span i b svg g path figcaption script".split())
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', html)
    assert not set(data) & set("<>&") and data.isascii() and "\\u202e" not in data and "\\u001b" not in data
    assert "alert(1)" in json.loads(data)["at"][0]


def test_thinning_keeps_the_mean_the_ends_and_says_what_it_did():
    steps, values = np.arange(1.0, 2801), np.random.default_rng(0).normal(size=2800)
    x, y, names = curves.thin(steps, values)
    assert len(x) == len(y) == len(names) == 400
    assert names[0] == "steps 1–7" and names[-1] == "steps 2,794–2,800" and x[0] == 4
    np.testing.assert_allclose(y[1], values[7:14].mean())
    np.testing.assert_allclose(y.mean(), values.mean())
    x, y, names = curves.thin(steps[:1003], values[:1003])
    assert len(x) <= 400 and names[-1] == "step 1,003"
    np.testing.assert_allclose(y[-1], values[1002])
    same = curves.thin(steps[:400], values[:400])
    assert same[2] == [] and same[1] is not None and len(same[0]) == 400


def contrast(one, other):
    def light(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    bright, dim = sorted((light(one), light(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def themes():
    """The custom properties of colours.css: light, dark by the system's setting, dark by the button."""
    blocks = re.findall(r":root[^{]*\{([^}]*)\}", assets("colours.css"))
    return [dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in blocks]


def test_dark_is_the_same_by_the_system_and_by_the_button():
    light, system, button = themes()
    assert system == button != light and system.keys() == light.keys()


@pytest.mark.parametrize("of", themes()[:2], ids=["light", "dark"])
def test_lines_and_words_stand_out_from_their_background(of):
    """WCAG: at least 3 for graphics, 4.5 for text."""
    for name in ("before", "after", "s1", "s2", "s3", "s4", "s5", "s6"):
        assert contrast(of[name], of["card"]) >= 3, name
    for name in ("ink", "faint"):
        assert contrast(of[name], of["card"]) >= 4.5, name
    assert contrast(of["ink"], of["big-soft"]) >= 4.5  # warnings
    assert len({of[f"s{i}"] for i in range(1, 7)}) == 6


def test_routes_of_experts_have_a_curve_where_rows_report_them():
    rows = example_rows()
    plain = Run("x", Path("x"), example_results(), rows, True)
    routed = [{**row, "route_gap": 0.02} if row["stage"] == "rl" else row for row in rows]
    moe = Run("x", Path("x"), example_results(), routed, True)
    for charts in (curves.health, lambda run: curves.compared([run])):
        assert "Tokens on other routes" in grid(charts(moe)) and "Tokens on other routes" not in grid(charts(plain))
    (found,) = [chart for chart in curves.health(moe) if chart.name == "rl_route_gap"]
    assert found.percent and set(found.series[0].y) == {0.02}
