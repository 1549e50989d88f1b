# SPDX-License-Identifier: Apache-2.0
"""Several runs on one page: differences with their intervals, only the knobs that differ, a line a run."""

from __future__ import annotations

import json
import re

import pytest
from made_up import HOSTILE, Reader, share, write_run

from t1jax.evaluation.statistics import difference
from t1jax.reports import comparison, runs


def render(*folders):
    html = comparison.render(runs.read([str(folder) for folder in folders]))
    return html, Reader(html).text.replace("\u00a0", " ")


def triple(percent):
    return tuple(share(percent)[name] for name in ("accuracy", "low", "high"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs")
    write_run(path / "first", cold=5)
    write_run(path / "second", cold=5, after=70.0, seed=1, rl__temperature=1.0, scaling__budgets=(6, 36, 180))
    write_run(path / "open", cold=5, steps=10, finished=False, seed=2)
    return [path / name for name in ("first", "second", "open")]


def test_the_table_has_each_run_and_its_difference_to_the_first(folders):
    _, text = render(*folders)
    table = text[text.index("The runs") : text.index("Where they are")]
    low, high = difference(triple(85.0), triple(70.0))
    assert f"−15.0[−{-100 * low:.1f}, −{-100 * high:.1f}]" in table and "85.0 %[82.7, 87.1]" in table
    assert table.count("first") == 3 and "Tokens" in table  # heading, name, instead of a difference
    row = table[table.index("open") :]
    assert row.startswith("open1027.1 %[24.4, 29.9]–––")


def test_only_knobs_that_differ_are_listed(folders):
    _, text = render(*folders)
    knobs = text[text.index("Knobs that differ") : text.index("Over the steps")]
    assert "rl.temperature1.211.2" in knobs and "seed012" in knobs and "learning_rate" not in knobs
    assert "scaling.budgets" in knobs
    assert "None: the configs are the same" in render(folders[0], write_run(folders[0].parent / "again", cold=5))[1]


def test_runs_measured_on_other_terms_are_marked(folders):
    html, text = render(*folders)
    assert "They were not measured in the same way: scaling.budgets." in text
    _, same = render(folders[0], folders[2])
    assert "not measured in the same way" not in same and "Not finished: open." in same


def test_the_best_run_is_named_as_clearly_as_the_intervals_allow(folders, tmp_path):
    assert "first has the highest accuracy after RL, 85.0 %, clearly above the next, second" in render(*folders)[1]
    close = write_run(tmp_path / "close", cold=5, after=86.0)
    assert "close has the highest accuracy after RL, 86.0 %, but not clearly above" in render(folders[0], close)[1]


def test_no_run_is_ahead_of_one_that_answered_other_problems(folders, tmp_path):
    other = write_run(tmp_path / "other", cold=5, after=40.0, task__max_numbers=9)
    text = render(folders[0], other)[1]
    assert "not measured in the same way: task.max_numbers" in text and "highest accuracy" not in text


def test_knobs_of_where_a_run_ran_are_folded(folders, tmp_path):
    html, _ = render(folders[0], write_run(tmp_path / "elsewhere", cold=5, seed=3, checkpoint__every=7))
    knobs = html[html.index("Knobs that differ") : html.index("Over the steps")]
    assert "<code>seed</code>" in knobs[: knobs.index("<details")]
    assert "<summary>1 of where and how they ran</summary>" in knobs
    assert "<code>checkpoint.every</code>" in knobs[knobs.index("<details") :]


def test_each_chart_has_a_line_a_run_with_its_own_look(folders):
    html, _ = render(*folders)
    charts = re.findall(r'<figure class="chart" id="chart-(\w+)">.*?json">(.*?)</script></figure>', html)
    assert {"rl_held_out", "rl_reward", "rl_accuracy", "rl_entropy", "scaling_rl", "scaling_sft"} <= {
        n for n, _ in charts
    }
    data = {name: json.loads(text) for name, text in charts}
    assert {"rl_held_out", "rl_reward", "rl_accuracy", "rl_entropy", "scaling_rl", "scaling_sft"} <= set(data)
    assert [s["run"] for s in data["rl_reward"]["series"]] == ["r0", "r1", "r2"]
    assert [s["run"] for s in data["scaling_rl"]["series"]] == ["r0", "r1"]  # the third is not there yet
    assert "rl_repetition" not in data  # nothing was repetitive
    assert len(set(re.findall(r'<button class="toggle key (.*?)"', html))) == 3


def test_twelve_runs_are_told_apart(folders, tmp_path):
    many = [write_run(tmp_path / f"run{i}", cold=0, steps=2, seed=i) for i in range(12)]
    html, _ = render(*many)
    assert len(set(re.findall(r'<button class="toggle key (.*?)"', html))) == 12


def test_hostile_knobs_and_names_are_shown_and_inert(tmp_path):
    name = "<img src=x onerror=alert(1)>\u202e"
    one, other = write_run(tmp_path / name, cold=2, steps=2), write_run(tmp_path / "b", cold=2, steps=2)
    tree = json.loads((one / "results.json").read_text())
    tree["config"]["rl"]["note"] = tree["config"]["<b>"] = HOSTILE
    (one / "results.json").write_text(json.dumps(tree))
    html, text = render(one, other)
    assert "<img src" not in html and "\u202e" not in html and "alert(1)" in text
    assert not {tag for tag, _ in Reader(html).tags} & {"img", "iframe", "link", "object"}
