# SPDX-License-Identifier: Apache-2.0
"""The report says what the numbers say, shows every text without letting it act, and stands alone."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from made_up import GOOD, SHOWN, Reader, example_results, example_rows, share

from t1jax.evaluation.statistics import wilson
from t1jax.host import files, metrics
from t1jax.reports import columns, curves, plots, training_plots
from t1jax.reports.page import assets, escape, page, visible
from t1jax.reports.run_page import render, write_report
from t1jax.reports.runs import Run
from t1jax.reports.transcript import mark


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    assert write_report(path, example_results(), example_rows()) == path / "report.html"
    return path


@pytest.fixture(scope="module")
def reader(workdir):
    return Reader((workdir / "report.html").read_text(encoding="utf-8"))


def test_the_headline_gives_before_after_and_the_interval_of_the_change(reader):
    start = reader.text[: reader.text.index("Does more thinking help?")]
    assert "RL took accuracy from 27.1 % to 85.4 %" in start
    assert "27.1 % [24.4, 29.9]" in start and "85.4 % [83.1, 87.5]" in start
    assert "+58.3 points" in start and "95 %: +54.6 to +61.7" in start
    assert "60.0 % [56.9, 63.0]" in start and "RL ends above it" in start
    for words in ("21.5 → 48.8", "71.1 % → 5.3 %", "0.6 % → 2.1 %", "41.0 % → 91.0 %", "7 min 40 s"):
        assert words in start


@pytest.mark.parametrize(
    "after, forbidden, title, place",
    [
        (28.0, 20.0, "RL made no clear difference: 27.1 % to 28.0 %", "RL ends above it"),
        (15.0, 40.0, "RL lowered accuracy, from 27.1 % to 15.0 %", "RL ends below it"),
        (80.0, 79.5, "RL took accuracy from 27.1 % to 80.0 %", "RL ends not clearly above or below it"),
    ],
)
def test_the_headline_claims_no_more_than_the_intervals_allow(tmp_path, after, forbidden, title, place):
    results = {"sft": share(27.1, forbidden_to_give_up=share(forbidden)), "rl": share(after)}
    text = Reader(write_report(tmp_path, results, []).read_text()).text
    assert title in text and place in text


def test_tables_hold_the_numbers_of_the_results(reader):
    text = reader.text
    assert "+13.9" not in text and "+25.1 points before RL and +82.2 points after RL" in text
    by_difficulty = text[text.index("Accuracy by difficulty") : text.index("Is the gain honest?")]
    assert "420030.0 %[24.1, 36.7]80.0 %[73.9, 85.0]+50.0[+41.0, +57.7]" in by_difficulty
    honesty = text[text.index("Is the gain honest?") : text.index("This run")]
    assert "Sums that are right99.8 %99.8 %+0.0" in honesty
    assert "Verdicts that are right, late in long chains99.3 %98.1 %−1.2" in honesty
    assert "Responses that gave up71.1 %5.3 %−65.8" in honesty
    assert "copied" not in honesty  # was not measured


@pytest.mark.parametrize(("kept", "gone", "level", "sums"), [
    ("rl", "sft", "420080.0 %[73.9, 85.0]", "Sums that are right99.8 %"),
    ("sft", "rl", "420030.0 %[24.1, 36.7]", "Sums that are right99.8 %"),
])  # fmt: skip
def test_tables_of_what_was_measured_once_have_one_column(tmp_path, kept, gone, level, sums):
    """Before RL nothing is measured with eval.before = False, and after RL nothing yet while it runs."""
    results = example_results()
    results[gone] = None
    for name in ("greedy", "skills"):
        results[name] = {kept: results[name][kept]}
    for name in ("by_difficulty", "scaling", "samples"):
        results[name] = [x for x in results[name] if x["stage"] == kept]
    page = render(Run("run", tmp_path, results, example_rows(), finished=kept == "rl"))
    text = Reader(page).text
    by_difficulty, honesty = text[text.index("Accuracy by difficulty") :].split("Are responses honest?")
    honesty = honesty[: honesty.index("This run")]
    heads = {"rl": "After RL", "sft": "Before RL"}
    for part, row in ((by_difficulty, level), (honesty, sums)):
        assert row in part and heads[kept] in part and heads[gone] not in part and "Points" not in part


def test_every_figure_is_in_the_page_and_as_a_picture_beside_it(workdir, reader):
    names = ("scaling", "reward", "accuracy", "response_length", "entropy", "kl_anchor", "penalties", "loss")
    assert sorted(path.stem for path in workdir.glob("*.png")) == sorted(names)  # not grad_norm: no row has a value
    assert all((workdir / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in names)
    charts = {a["id"].removeprefix("chart-") for tag, a in reader.tags if tag == "figure"}
    assert charts == {"scaling", *(f"rl_{name}" for name in names[1:]), "rl_behaviour", "sft_loss"}


def test_the_page_loads_nothing_and_runs_only_our_script(workdir, reader):
    raw = (workdir / "report.html").read_text()
    tags = {name for name, _ in reader.tags}
    loading = ("link", "iframe", "object", "embed", "form", "base", "img", "source", "use", "image", "foreignobject")
    assert not tags & set(loading)
    for _, attributes in reader.tags:
        assert not [a for a in attributes if a.startswith("on")]
        assert not {"src", "srcset", "xlink:href", "data"} & set(attributes)
        if "href" in attributes:
            assert re.match(r"#\w+$|https://arxiv\.org/", attributes["href"])
    assert "url(" not in raw and "@import" not in raw
    run = [a for name, a in reader.tags if name == "script" and a.get("type") != "application/json"]
    assert run == [{}] and f"<script>{assets('charts.js')}</script>" in raw
    (policy,) = [a["content"] for _, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(assets("charts.js").encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{digest}'; ")
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")


def test_a_page_without_a_script_allows_none():
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page("title", ""))[1]
    assert "default-src 'none'" in policy and "script-src" not in policy


def test_hostile_text_is_shown_and_inert(workdir, reader):
    raw = (workdir / "report.html").read_bytes()
    assert not set(raw) & (set(range(32)) - {9, 10})  # no escape, bell or other control byte
    assert "\u202e" not in raw.decode()
    assert reader.text.count(SHOWN) == 2  # the response and a version, seen as they are
    assert "<b>pkg</b>" in reader.text  # a name, too


def test_escape_leaves_honest_text_alone():
    assert visible("r′ → 5 < 6,\tüñ 数\n") == "r′ → 5 < 6,\tüñ 数\n"
    assert escape('<a b="c">&') == "&lt;a b=&quot;c&quot;&gt;&amp;"


def test_mark_tells_attempts_verdicts_checks_and_the_box_apart():
    lines = re.findall(r'<span class="line.*?(?=<span class="line|$)', mark(GOOD))
    assert lines == [
        '<span class="line attempt-line">6+22=28, need 20: <span class="mark big">too big</span></span>',
        '<span class="line attempt-line">6+13=19, need 20: <span class="mark small">too small</span></span>',
        '<span class="line attempt-line">6+14=20, need 20: <span class="mark yes">yes</span></span>',
        '<span class="line check-line"><span class="mark check">check</span> 20-6=14: '
        '<span class="mark yes">yes</span></span>',
        '<span class="line"><span class="tag">&lt;/think&gt;</span></span>',
        '<span class="line"><span class="mark box">\\boxed{6+14}</span></span>',
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no pattern here",
        "a: too bigger",
        "\\boxed{1",
        "<think>\n<b>: yes\n\n: no",
        "x\\boxed{<i>}y",
        "check <i>: yes",
    ],
)
def test_mark_shows_any_text_whole(text):
    shown = Reader(mark(text).replace('</span><span class="line', '</span>\n<span class="line'))
    assert shown.text.replace("\n", "") == text.replace("\n", "")
    assert {name for name, _ in shown.tags} == {"span"}


def test_responses_stand_in_pairs_with_their_judgement(reader):
    part = reader.text[reader.text.index("The same problems") : reader.text.index("Over the steps")]
    assert part.count("Pick two of 6, 13, 14, 16, 22 that sum to 20.") == 1
    assert (
        part.index("Before RL")
        < part.index("wrong")
        < part.index("After RL")
        < part.index("right3 attempts, 1 verification")
    )
    for word in ("too small", "too big", "yes", "check", "\\boxed{ }"):
        assert word in part[: part.index("Pick two")]  # the legend


def test_the_config_and_versions_can_be_unfolded(reader):
    assert [name for name, _ in reader.tags].count("details") == 5  # numbers, times, curves, versions, config
    assert '"temperature": 1.2' in reader.text and "jax0.10.2" in reader.text


def test_results_without_an_accuracy_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"results lacks rl\.accuracy; evaluate"):
        write_report(tmp_path, {"sft": share(20.0), "rl": {}}, [])
    assert list(tmp_path.iterdir()) == []


def test_a_report_from_the_files_of_a_run_equals_one_from_memory(tmp_path):
    files.write_json(tmp_path / "results.json", example_results() | {"versions": {}, "config": {}})
    results = json.loads((tmp_path / "results.json").read_text()) | {"scaling": []}
    with metrics.MetricsWriter(tmp_path, {}) as writer:
        for row in example_rows()[40:44]:
            writer.write(row["stage"], row["step"], {k: v for k, v in row.items() if k not in ("stage", "step")})
    one = write_report(tmp_path, results, metrics.read_rows(tmp_path)).read_bytes()
    assert write_report(tmp_path, results, example_rows()[40:44]).read_bytes() == one


def test_a_failed_write_keeps_the_old_report(tmp_path, monkeypatch):
    results = {"sft": share(20.0), "rl": share(50.0)}
    old = write_report(tmp_path, results, []).read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path, results | {"rl": share(60.0)}, [])
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"] and (tmp_path / "report.html").read_bytes() == old


# plots


def test_smooth_is_a_running_mean_and_keeps_constants_and_length():
    values = np.random.default_rng(0).normal(size=50)
    smoothed = columns.smooth(values, 7)
    assert smoothed.shape == values.shape
    np.testing.assert_allclose(smoothed[20], values[17:24].mean())
    np.testing.assert_allclose(smoothed[0], values[:4].mean())
    np.testing.assert_allclose(smoothed[-2], values[-5:].mean())
    np.testing.assert_allclose(columns.smooth(np.full(9, 2.5), 5), 2.5)


def test_series_leaves_out_steps_without_a_value():
    steps, values = columns.series(example_rows(), "rl", "kl_anchor")
    assert len(steps) == len(values) == 29 and 7 not in steps


def test_a_curve_without_values_is_not_drawn():
    assert training_plots.draw_curve(columns.CURVES[0], example_rows()[:40], {}, plots.LIGHT) is None


def drawn(monkeypatch, draw):
    """The figure that `draw` made, to look at its parts."""
    from matplotlib.figure import Figure

    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: kept.append(self))
    draw()
    return kept[0]


def test_the_scaling_curve_has_a_line_and_a_shaded_interval_for_each_stage(monkeypatch):
    points = example_results()["scaling"][::-1]
    (ax,) = drawn(monkeypatch, lambda: plots.draw_scaling(points, plots.LIGHT)).axes
    after, before = ax.lines  # in the order of the points, which were turned round
    np.testing.assert_allclose(before.get_xdata(), [6, 36, 180])
    np.testing.assert_allclose(after.get_ydata(), [0.85 * b / 180 for b in (6, 36, 180)])
    heights = {tuple(v) for v in ax.collections[0].get_paths()[0].vertices}
    for point in points:
        if point["stage"] == "rl":
            assert (point["budget"], point["low"]) in heights and (point["budget"], point["high"]) in heights
    assert {text.get_text() for text in ax.texts} == {"before RL", "after RL"}


def test_a_budget_of_no_thinking_has_its_place_on_the_axis(monkeypatch):
    points = [{"stage": "rl", "budget": b, **share(50.0)} for b in (0, 8, 64)]
    (ax,) = drawn(monkeypatch, lambda: plots.draw_scaling(points, plots.DARK)).axes
    places = ax.transData.transform([(b, 0.5) for b in (0, 8, 64)])[:, 0]
    assert np.isfinite(places).all() and (np.diff(places) > 20).all()
    assert ax.get_xlim()[0] <= 0


def test_cold_start_and_rl_have_an_axis_each_and_held_out_points_their_intervals(monkeypatch):
    rows, results = example_rows(), example_results()
    loss = columns.HEALTH[0]
    axes = drawn(monkeypatch, lambda: training_plots.draw_curve(loss, rows, results, plots.LIGHT)).axes
    assert [ax.get_xlabel() for ax in axes] == ["step of cold start", "step of RL"]
    (ax,) = drawn(monkeypatch, lambda: training_plots.draw_curve(columns.CURVES[1], rows, results, plots.LIGHT)).axes
    points = [tuple(c.lines[0].get_xydata()[0]) for c in ax.containers]
    np.testing.assert_allclose(points, [(0, 0.271), (30, 0.854), (15, 0.3)])
    low, high = ax.containers[2].lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx(wilson(30, 100))


def test_each_kind_of_penalty_has_a_line_with_a_look_of_its_own(monkeypatch, tmp_path):
    shares = {"overlong": 0.1, "repetition": 0.2, "garbled": 0.3, "perplexed": 0.4, "unscorable": 0.5}
    rows = [{"stage": "rl", "step": step, **shares} for step in (1, 2)]
    (penalised,) = (curve for curve in columns.CURVES if curve.name == "penalties")
    (ax,) = drawn(monkeypatch, lambda: training_plots.draw_curve(penalised, rows, {}, plots.LIGHT)).axes
    assert [list(line.get_ydata()) for line in ax.lines] == [[share] * 2 for share in shares.values()]
    assert len({line.get_color() for line in ax.lines}) == len(shares)
    run = Run("r", tmp_path, {}, rows, finished=False)
    (chart,) = (chart for chart in curves.training(run) if chart.name == "rl_penalties")
    assert [list(line.y) for line in chart.series] == [[share] * 2 for share in shares.values()]
    assert len({line.colour for line in chart.series}) == len({line.label for line in chart.series}) == len(shares)


def test_importing_the_report_does_not_import_matplotlib():
    code = "import sys, t1jax.reports.run_page, t1jax.reports.comparison; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
