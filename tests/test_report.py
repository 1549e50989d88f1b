# SPDX-License-Identifier: Apache-2.0
"""The report says what the numbers say, shows every text without letting it act, and stands alone."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from t1jax import files, metrics, plots
from t1jax.page import escape, visible
from t1jax.report import write_report
from t1jax.statistics import wilson
from t1jax.transcript import mark

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>"
    "\x1b[2J\x1b]0;owned\x07\u202egnp.exe & \"quoted\" 'text' \ud800"
)
SHOWN = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>"
    "⟨U+001B⟩[2J⟨U+001B⟩]0;owned⟨U+0007⟩⟨U+202E⟩gnp.exe & \"quoted\" 'text' ⟨U+D800⟩"
)
GOOD = """6+22=28, need 20: too big
6+13=19, need 20: too small
6+14=20, need 20: yes
check 20-6=14: yes
</think>
\\boxed{6+14}"""


def share(percent: float, n: int = 1000, **more):
    low, high = wilson(round(percent * n / 100), n)
    return {"accuracy": percent / 100, "low": low, "high": high, "n": n} | more


def example_results():
    prompt = "Pick two of 6, 13, 14, 16, 22 that sum to 20.\n<think>\n"
    sample = {"prompt": prompt, "gold": "6+14", "difficulty": 5}
    return {
        "sft": share(27.1, response_length=21.5, gave_up=0.711, false_claims=0.006, forbidden_to_give_up=share(60.0)),
        "rl": share(85.4, response_length=48.8, gave_up=0.053, false_claims=0.021),
        "greedy": {"sft": share(41.0), "rl": share(91.0)},
        "scaling": [
            {"stage": stage, "budget": budget, **share(top * budget / 180)}
            for stage, top in (("sft", 26.0), ("rl", 85.0))
            for budget in (6, 36, 180)
        ],
        "by_difficulty": [
            {"stage": stage, "difficulty": d, **share(p, 200)} for stage, p in (("sft", 30), ("rl", 80)) for d in (4, 5)
        ],
        "skills": {
            stage: {"arithmetic": 0.998, "copying": None, "late_verdicts": p}
            for stage, p in (("sft", 0.993), ("rl", 0.981))
        },
        "samples": [
            {"stage": "sft", "response": HOSTILE, "correct": False, **sample},
            {"stage": "rl", "response": GOOD, "correct": True, **sample},
        ],
        "seconds": {"sft": 200.4, "rl": 260.0},
        "versions": {"jax": "0.10.2", "<b>pkg</b>": HOSTILE},
        "config": {"seed": 0, "rl": {"temperature": 1.2, "note": HOSTILE}},
    }


def example_rows():
    rows = []
    for step in range(1, 41):
        rows.append(dict.fromkeys(metrics.REQUIRED) | {"stage": "sft", "step": step, "loss": 3 / step})
    for step in range(1, 31):
        shares = dict.fromkeys(("overlong", "repetition", "garbled", "unscorable"), 0.0)
        rows.append(
            dict.fromkeys(metrics.REQUIRED)
            | {"stage": "rl", "step": step, "reward": step / 30, "accuracy": step / 30, "response_length": 20.0 + step}
            | {"entropy": 0.3, "kl_anchor": 0.1 if step != 7 else None, "loss": 0.0, **shares}
        )
    rows.append(dict.fromkeys(metrics.REQUIRED) | {"stage": "evaluate", "step": 15, **share(30.0, 100)})
    return rows


class Reader(HTMLParser):
    """Collects tags with attributes and the text between them; checks that what is opened is closed."""

    VOID = ("meta", "img", "source")

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data


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


def test_every_figure_is_in_the_page_in_two_themes_and_beside_it(workdir, reader):
    names = ("scaling", "reward", "accuracy", "response_length", "entropy", "kl_anchor", "penalties", "loss")
    beside = {(workdir / f"{name}.png").read_bytes() for name in names}
    assert len(beside) == len(names) and all(png.startswith(b"\x89PNG") for png in beside)
    day = {base64.b64decode(tag["src"].split(",")[1]) for name, tag in reader.tags if name == "img"}
    night = {base64.b64decode(tag["srcset"].split(",")[1]) for name, tag in reader.tags if name == "source"}
    assert day == beside and len(night) == len(names) and not day & night
    assert not (workdir / "grad_norm.png").exists()  # no row has a value


def test_the_page_loads_nothing_and_runs_nothing(workdir, reader):
    tags = {name for name, _ in reader.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "base", "svg"}
    for _, attributes in reader.tags:
        assert not [a for a in attributes if a.startswith("on")]
        for place in ("src", "srcset"):
            assert attributes.get(place, "data:image/png").startswith("data:image/png")
        if "href" in attributes:
            assert re.match(r"#\w+$|https://arxiv\.org/", attributes["href"])
    policy = [a["content"] for _, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy and "default-src 'none'" in policy[0] and "script-src" not in policy[0]
    assert (
        "url(" not in (workdir / "report.html").read_text() and "@import" not in (workdir / "report.html").read_text()
    )


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
    smoothed = plots.smooth(values, 7)
    assert smoothed.shape == values.shape
    np.testing.assert_allclose(smoothed[20], values[17:24].mean())
    np.testing.assert_allclose(smoothed[0], values[:4].mean())
    np.testing.assert_allclose(smoothed[-2], values[-5:].mean())
    np.testing.assert_allclose(plots.smooth(np.full(9, 2.5), 5), 2.5)


def test_series_leaves_out_steps_without_a_value():
    steps, values = plots.series(example_rows(), "rl", "kl_anchor")
    assert len(steps) == len(values) == 29 and 7 not in steps


def test_a_curve_without_values_is_not_drawn():
    assert plots.draw_curve(plots.CURVES[0], example_rows()[:40], {}, plots.LIGHT) is None


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
    loss = plots.HEALTH[0]
    axes = drawn(monkeypatch, lambda: plots.draw_curve(loss, rows, results, plots.LIGHT)).axes
    assert [ax.get_xlabel() for ax in axes] == ["step of cold start", "step of RL"]
    (ax,) = drawn(monkeypatch, lambda: plots.draw_curve(plots.CURVES[1], rows, results, plots.LIGHT)).axes
    points = [tuple(c.lines[0].get_xydata()[0]) for c in ax.containers]
    np.testing.assert_allclose(points, [(0, 0.271), (30, 0.854), (15, 0.3)])
    low, high = ax.containers[2].lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx(wilson(30, 100))


def test_importing_the_report_does_not_import_matplotlib():
    code = "import sys, t1jax.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
