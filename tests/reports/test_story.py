# SPDX-License-Identifier: Apache-2.0
"""The story says what the numbers say, no more than their intervals allow, and nothing of what was not measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up import HOSTILE, Reader, example_results, example_rows, share, write_run

from configs import qwen0p5b, qwen3_30b_a3b, tiny
from t1jax import config
from t1jax.planning import fit
from t1jax.reports import runs
from t1jax.reports.cautions import cautions
from t1jax.reports.runs import Run
from t1jax.reports.story import parameters, story
from t1jax.reports.wording import change, clock, of_responses


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("run"), steps=36, cold=2800)
    return runs.read([str(folder)])[0]


def told(run):
    """heading -> plain text."""
    return {heading: Reader(html).text.replace("\u00a0", " ") for heading, html in story(run)}


def with_results(run, **parts):
    return Run(run.name, run.workdir, {**run.results, **parts}, run.rows, run.finished)


def with_rows(run, **columns):
    rows = [{**row, **columns} if row["stage"] == "rl" else row for row in run.rows]
    return Run(run.name, run.workdir, run.results, rows, run.finished)


def test_the_story_of_a_whole_run(run):
    parts = told(run)
    assert list(parts) == ["The run", "Accuracy", "Behaviour", "Thinking", "Time"]
    assert parts["The run"] == (
        "A model of 452,224 parameters (3 layers, width 128) that starts from random weights learns the embedded task. "
        "First the cold start: 2,800 updates on written chains. Then 36 steps of RL on 32 problems each, with 16 "
        "responses to each problem: 18,432 responses, sampled at temperature 1.2."
    )
    assert "27.1 % [24.4, 29.9] are right before RL and 85.0 % [82.7, 87.1] after it: +57.9 points" in parts["Accuracy"]
    assert "a clear gain. Half of the gain is reached by step 9." in parts["Accuracy"]
    assert "41.0 % and 91.0 %: +50.0 points" in parts["Accuracy"]
    assert "reaches 60.0 % [56.9, 63.0]; RL against that: +25.0 points" in parts["Accuracy"]
    assert "become longer: 21.5 tokens before, 48.8 after" in parts["Behaviour"]
    assert "The share that gives up falls from 71.1 % to 5.3 %: −65.8 points" in parts["Behaviour"]
    assert "false claim rises from 0.6 % to 2.1 %: +1.5 points [+0.5, +2.6]" in parts["Behaviour"]
    assert parts["Time"] == "7 min 40 s in all: 56 % RL, 44 % the cold start."


@pytest.mark.parametrize(
    "before, after, words",
    [
        (27.1, 28.0, "which could be chance"),
        (50.0, 40.0, "−10.0 points [−14.3, −5.6], a clear loss"),
        (50.0, 60.0, "+10.0 points [+5.6, +14.3], a clear gain"),
    ],
)
def test_a_change_is_called_no_more_than_its_interval_allows(run, before, after, words):
    text = told(with_results(run, sft=share(before), rl=share(after)))["Accuracy"]
    assert words in text and ("Half of the gain" in text) == (before == 50.0 and after == 60.0)


def test_what_was_not_measured_is_not_mentioned(run):
    files = {"sft": share(30.0, response_length=900.0), "rl": share(50.0, response_length=880.0)}
    bare = Run("x", Path("x"), files, [], True)
    parts = told(bare)
    assert list(parts) == ["Accuracy", "Behaviour"]
    assert parts["Behaviour"] == "Responses stay about as long: 900 tokens before, 880 after."
    everything = " ".join(parts.values()).lower()
    assert "false" not in everything and "gave up" not in everything and "give up" not in everything
    assert cautions(bare) == []


def test_a_run_on_files_names_them_and_a_missing_cold_start(run):
    tree = config.load(tiny.get_config()).to_dict()
    tree["data"]["train"], tree["model"]["checkpoint"], tree["sft"]["num_steps"] = HOSTILE, "<b>Qwen</b>", 0
    rows = [row for row in run.rows if row["stage"] != "sft"]
    parts = dict(story(Run("x", Path("x"), {"config": tree}, rows, False)))
    assert "<b>Qwen" not in parts["The run"] and "&lt;b&gt;Qwen&lt;/b&gt;" in parts["The run"]
    assert "<img" not in parts["The run"] and "There is no cold start." in parts["The run"]


def scaling(**curves):
    budgets = (4, 16, 64, 128)
    return [
        {"stage": stage, "budget": budget, **share(percent)}
        for stage, curve in curves.items()
        for budget, percent in zip(budgets, curve, strict=True)
    ]


@pytest.mark.parametrize(
    "curves, words",
    [
        ({"rl": (10, 40, 80, 85)}, "grows with thinking to the longest budget: 10.0 % at 4 thinking tokens and 85.0 %"),
        ({"rl": (10, 40, 84, 85)}, "85.0 % at 128; beyond 64 tokens nothing clear is gained"),
        ({"rl": (30, 30, 31, 31)}, "After RL, more thinking makes no clear difference: 30.0 % at 4"),
        ({"sft": (50, 40, 35, 30)}, "Before RL, more thinking hurts: 50.0 % at 4 thinking tokens and 30.0 % at 128"),
        ({"sft": (10, 20, 25, 26), "rl": (10, 40, 80, 85)}, "is clearly ahead at 16 tokens and more."),
        ({"sft": (10, 20, 25, 26), "rl": (20, 40, 80, 85)}, "is clearly ahead at every one."),
        ({"sft": (20, 20, 25, 26), "rl": (10, 20, 80, 85)}, "It is clearly behind at 4 tokens."),
    ],
)
def test_what_the_curve_of_thinking_says(run, curves, words):
    assert words in told(with_results(run, scaling=scaling(**curves)))["Thinking"]


def test_stages_that_are_about_as_good_are_not_called_ahead_or_behind(run):
    text = told(with_results(run, scaling=scaling(sft=(10, 20, 80, 85), rl=(11, 19, 81, 84))))["Thinking"]
    assert "ahead" not in text and "behind" not in text


def test_a_healthy_run_warns_only_of_its_false_claims(run):
    (caution,) = cautions(run)
    assert caution.startswith("False claims rose: +1.5 points")
    quiet = {**run.results["rl"], "false_claims": 0.006}
    assert cautions(with_results(run, rl=quiet)) == []


@pytest.mark.parametrize(
    "columns, words",
    [
        ({"entropy": 0.02}, "Entropy at the end is 0.020 nats a token"),
        ({"overlong": 0.3}, "At the end 30.0 % of the responses are cut at"),
        ({"unscorable": 0.2}, "At the end 20.0 % of the responses cannot be judged"),
        ({"logprob_gap": 0.01}, "Sampler and learner differ by up to 0.01 nats"),
        ({"ratio_outside": 0.4, "log_ratio_std": 0.02}, "gives 40.0 % of the responses less than 0.8"),
        ({"skipped": 1.0}, "36 steps of RL had no finite gradient"),
    ],
)
def test_sick_numbers_are_told(run, columns, words):
    quiet = with_results(run, rl={**run.results["rl"], "false_claims": 0.006})
    (caution,) = cautions(with_rows(quiet, **columns))
    assert words in caution


def test_the_gap_that_rounding_explains_depends_on_the_precision(run):
    tree = {**run.results["config"], "model": {**run.results["config"]["model"], "compute_dtype": "bfloat16"}}
    wide = with_rows(with_results(run, config=tree), logprob_gap=0.1)
    assert not any("Sampler" in caution for caution in cautions(wide))
    assert any("Sampler" in caution for caution in cautions(with_rows(wide, logprob_gap=0.7)))


def test_a_gap_is_told_of_experts_as_what_other_routes_explain(run):
    tree = {**run.results["config"], "model": {**run.results["config"]["model"], "num_experts": 8}}
    moe = with_results(run, config=tree, rl={**run.results["rl"], "false_claims": 0.006})
    (caution,) = cautions(with_rows(moe, logprob_gap=0.7, route_gap=0.02))
    assert "up to 0.7 nats" in caution and "sent up to 2.0 % of a step's tokens through other experts" in caution
    assert "more than rounding explains" not in caution
    assert cautions(with_rows(moe, logprob_gap=0.3, route_gap=0.02)) == []


def test_a_fall_is_told_whether_from_the_start_or_from_the_way(run):
    said = " ".join(cautions(with_results(run, rl=share(15.0))))
    assert "RL lowered accuracy: −12.1 points" in said and "below that of step 36" not in said
    assert "Held-out accuracy at the end is below that of step 27" in said
    assert not any("below that of" in caution for caution in cautions(run))


def test_an_unfinished_run_says_so_first():
    unfinished = Run("x", Path("x"), {}, example_rows(), False)
    assert cautions(unfinished)[0].startswith("This run is not finished")


@pytest.mark.parametrize("make", [tiny, qwen0p5b, qwen3_30b_a3b], ids=lambda m: m.__name__)
def test_parameters_are_counted_as_the_planner_counts_them(make):
    model = config.load(make.get_config()).model
    assert parameters(vars(model)) == fit._parameters(model)
    assert parameters({"num_layers": 2}) is None


def test_shares_of_responses_count_the_unscorable_ones():
    summary = share(50.0, 80) | {"unscorable": 0.2, "gave_up": 0.1}
    found = of_responses(summary, "gave_up")
    assert found["n"] == 100 and found["accuracy"] == 0.1
    assert (found["low"], found["high"]) == (share(10.0, 100)["low"], share(10.0, 100)["high"])
    assert of_responses(summary, "false_claims") is None


def test_words_for_changes_and_times():
    moved = change(share(20.0), share(30.0))
    assert str(moved) == "+10.0 points [+6.2,\u00a0+13.7]" and moved.clear
    assert not change(share(20.0), share(21.0)).clear
    assert [clock(s) for s in (3.24, 61, 3599.6, 7300)] == ["3.2 s", "1 min 1 s", "1 h 0 min", "2 h 1 min"]


def test_the_story_of_the_example_escapes_what_it_quotes():
    results = example_results()
    results["seconds"] = {HOSTILE: 3.0}
    assert "<img" not in dict(story(Run("x", Path("x"), results, [], True)))["Time"]
