# SPDX-License-Identifier: Apache-2.0
"""Figures of judged responses by hand, and the tables that show them."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
from rich.console import Console

from t1jax.evaluation.figures import accuracy, measure, metrics_row, pass_rates, powers, summary, votes
from t1jax.evaluation.responses import Response
from t1jax.evaluation.statistics import wilson
from t1jax.evaluation.tables import markdown, percent, sheets, show
from t1jax.host import files
from t1jax.reports import plots
from t1jax.rewards.answers import RIGHT, SCORED, UNSCORABLE, WRONG
from t1jax.tasks.files.problems import Problem


def problem(index, **labels):
    return Problem(index, "held_out", f"problem {index}", "2", "", labels, index + 1, "f.jsonl")


def said(index, *answers, gold="2", tokens=3):
    """Responses to a problem: "2" is right, None no answer, "?" unscorable."""
    return [
        Response(
            problem=index, row=index + 1, response=r, text="", answer=a, gold=gold, tokens=tokens, overlong=a is None,
            outcome=UNSCORABLE if a == "?" else RIGHT if a == gold else WRONG,
        )
        for r, a in enumerate(answers)
    ]  # fmt: skip


def test_powers():
    assert [powers(n) for n in (1, 2, 5, 8, 32)] == [[1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8], [1, 2, 4, 8, 16, 32]]


def test_the_figures_by_hand():
    problems = [problem(0), problem(1), problem(2)]
    responses = [*said(0, "2", "2", "3", None), *said(1, "5", "5", "5", "2"), *said(2, "2", "2", "2", "2", tokens=9)]
    found = measure(problems, responses[::-1], 4)
    assert (found["problems"], found["samples"]) == (3, 4)
    assert found["pass@1"]["value"] == pytest.approx((0.5 + 0.25 + 1) / 3)
    assert [point["k"] for point in found["pass_at_k"]] == [1, 2, 4]
    assert found["pass_at_k"][1]["value"] == pytest.approx((5 / 6 + 3 / 6 + 1) / 3)  # of 6 pairs
    assert found["pass_at_k"][2]["value"] == 1.0
    assert found["majority_at_k"][0] == found["pass_at_k"][0]
    assert found["majority_at_k"][2]["value"] == pytest.approx((1 + 0 + 1) / 3)
    assert found["response_length"]["value"] == pytest.approx((3 + 3 + 9) / 3)
    assert found["overlong"]["value"] == found["no_answer"]["value"] == pytest.approx(1 / 12)
    assert found["unscorable"]["value"] == 0 and found["by"] == {}
    for name in ("pass@1", "response_length", "overlong"):
        figure = found[name]
        assert figure["low"] < figure["value"] < figure["high"] and figure["problems"] == 3
    assert json.loads(json.dumps(files.json_ready(found))) == found


def test_a_lenient_reader_asks_for_no_box_and_nothing_else():
    right, wrong, unboxed = said(0, "2", "3", "3")
    unboxed = dataclasses.replace(unboxed, answer=None, lenient=RIGHT)
    found = measure([problem(0)], [right, wrong, unboxed], 3)
    assert found["strict pass@1"]["value"] == pytest.approx(1 / 3)
    assert found["lenient pass@1"]["value"] == pytest.approx(2 / 3) and found["no_answer"]["value"] == pytest.approx(
        1 / 3
    )
    row = summary([right, wrong, unboxed])
    assert (row["accuracy"], row["lenient_accuracy"], row["boxed"]) == pytest.approx((1 / 3, 2 / 3, 2 / 3))
    assert Response.parse(json.loads(unboxed.line())) == unboxed
    assert b"lenient" not in right.line()


def test_unscorable_responses_are_left_out_and_counted():
    """Neither right nor wrong: problem 1 has one scorable response, problem 2 has none."""
    problems = [problem(0), problem(1), problem(2)]
    found = measure(problems, [*said(0, "2", "3"), *said(1, "?", "2"), *said(2, "?", "?")], 2)
    assert found["pass@1"]["value"] == 0.75 and found["pass@1"]["problems"] == 2
    assert found["strict pass@1"]["value"] == pytest.approx((0.5 + 0.5 + 0) / 3)  # unscorable ones are wrong
    assert found["strict pass@1"]["problems"] == 3
    assert found["pass_at_k"][1]["problems"] == found["majority_at_k"][1]["problems"] == 1
    assert found["majority_at_k"][1]["value"] == 0.5
    assert found["unscorable"]["value"] == 0.5 and found["unscorable"]["problems"] == 3


def test_where_nothing_can_be_judged_there_is_no_figure():
    found = measure([problem(0)], said(0, "?"), 1)
    assert found["pass@1"] == {"value": None, "low": None, "high": None, "problems": 0}
    assert percent(found["pass@1"]) == "-"


def test_problems_that_all_agree_have_an_interval_nevertheless():
    problems = [problem(i) for i in range(30)]
    found = measure(problems, [r for i in range(30) for r in said(i, "3")], 1)
    assert (found["pass@1"]["low"], found["pass@1"]["high"]) == wilson(0, 30)
    assert found["response_length"]["low"] == found["response_length"]["high"] == 3


def test_groups_share_out_the_problems():
    problems = [problem(0, level="10", subject="A"), problem(1, level="9"), problem(2, level="9", subject="A")]
    problems[1].labels.update(subject="")
    found = measure(problems, [*said(0, "2"), *said(1, "3"), *said(2, "2")], 1)["by"]
    assert list(found) == ["level", "subject"]
    assert list(found["level"]) == ["9", "10"]  # numbers by size
    assert {value: (figure["value"], figure["problems"]) for value, figure in found["level"].items()} == {
        "9": (0.5, 2), "10": (1.0, 1),
    }  # fmt: skip
    assert (found["subject"][""]["problems"], found["subject"]["A"]["value"]) == (1, 1.0)


def test_a_label_that_all_problems_share_makes_no_group():
    problems = [problem(0, subject="A"), problem(1, subject="A")]
    assert measure(problems, [*said(0, "2"), *said(1, "3")], 1)["by"] == {}


def test_a_label_of_too_many_values_makes_no_group():
    for count, groups in ((30, 30), (31, None)):
        problems = [problem(i, difficulty=f"{i}.5") for i in range(count)]
        by = measure(problems, [r for i in range(count) for r in said(i, "2")], 1)["by"]
        assert len(by.get("difficulty", ())) == (groups or 0)


def test_answers_that_write_one_number_are_one_vote():
    groups, abstained = votes(said(0, "2", "2.0", "\\frac{4}{2}", "3", "3.0", "x", None))
    assert sorted(groups) == [(1, 0.0), (2, 0.0), (3, pytest.approx(1 / 3))] and abstained == 1


def test_the_vote_does_not_know_the_gold_answer():
    """Two texts of one right answer that only algebra could join are two answers: neither wins by being right."""
    responses = said(0, "x+1", "1+x", "y", "y", gold="x+1")
    groups, _ = votes(responses)
    assert sorted(count for count, _ in groups) == [1, 1, 2]
    assert measure([problem(0)], responses, 4)["majority_at_k"][-1]["value"] == 0.0


@pytest.fixture
def results():
    problems = [problem(0, level="a|b"), problem(1, level="<i>")]
    measured = measure(problems, [*said(0, "2", "3"), *said(1, "3", "?")], 2)
    point = {
        "budget": 2048, "cut": 0.25, "pass@1": measured["pass@1"], "majority": measured["majority_at_k"][-1],
        "response_length": measured["response_length"], "no_answer": measured["no_answer"],
    }  # fmt: skip
    return {
        "aime24": {"data": "f", **measured, "budgets": [point]},
        "other": {"data": "g", **measure(problems, [*said(0, "2"), *said(1, "3")], 1), "budgets": []},
    }


def test_the_terminal_and_the_markdown_show_the_same(results):
    tables = sheets(results)
    console = Console(file=io.StringIO(), width=200)
    show(tables, console)
    text, marked = console.file.getvalue(), markdown(tables, ["a note"])
    for part in ("aime24", "no box %", "25.0 [0.0, 50.0]", "9.2 / 30.5 / 50.6", "2,048"):
        assert part in text and part in marked, part
    assert "* a note" in marked and "| a\\|b |" in marked and "| &lt;i> |" in marked and "a|b" in text
    titles = [line[3:] for line in marked.splitlines() if line.startswith("## ")]
    assert titles == [
        "Right answers, 95 % intervals", "Responses", "aime24: k of 2 samples", "aime24: inference scaling",
        "aime24 by level", "other by level",
    ]  # fmt: skip
    lines = [line for line in marked.splitlines() if line.startswith("|")]
    assert len(lines) == sum(len(table.rows) + 2 for table in tables)


def test_what_counts_unscorable_responses_as_wrong_stands_beside_pass_at_1(results):
    sheet = sheets(results)[0]
    assert sheet.header[:4] == ["benchmark", "asked", "strict %", "pass@1 %"]
    assert sheet.rows[0][:4] == ["aime24", "2x2", "25.0", "25.0 [0.0, 50.0]"]
    problems = [problem(0)]
    (row,) = sheets({"b": {**measure(problems, said(0, "2", "?", "?", "3"), 4), "budgets": []}})[0].rows
    assert row[1:3] == ["1x4", "25.0"] and row[3].startswith("50.0 [")


def test_the_paper_is_named_only_where_it_has_a_figure(results):
    assert sheets(results)[0].header[-1] == "T1 9B / 14B / 32B"
    assert sheets({"other": results["other"]})[0].header[-1] == "pass@1 %"


def test_tables_of_real_sizes_fit_on_a_terminal(results):
    names = {"omni_math_500": results["other"], **results}
    wide = {name: {**result, "problems": 1319, "samples": 32} for name, result in names.items()}
    console = Console(file=io.StringIO(), width=80)
    tables = sheets(wide)
    show(tables, console)
    lines = console.file.getvalue().splitlines()
    for row in [row for table in tables for row in (table.header, *table.rows)]:
        assert any(all(cell in line for cell in row) for line in lines), row


@pytest.mark.parametrize("theme", [plots.LIGHT, plots.DARK])
def test_plots_are_pictures(results, theme):
    assert plots.draw_samples({"aime24": results["aime24"]}, theme).startswith(b"\x89PNG")
    assert plots.draw_groups("aime24", results["aime24"]["by"], theme).startswith(b"\x89PNG")


def scored(index, *rewards):
    """Responses that have rewards, and are neither right nor wrong; None: unscorable."""
    return [
        Response(
            problem=index, row=index + 1, response=r, text="", gold=None, tokens=3, overlong=False, graded=False,
            outcome=UNSCORABLE if reward is None else SCORED, reward=float("nan") if reward is None else reward,
        )
        for r, reward in enumerate(rewards)
    ]  # fmt: skip


def test_the_mean_reward_where_there_is_no_right_and_wrong():
    problems = [problem(0, level="1"), problem(1, level="2"), problem(2, level="2")]
    responses = [*scored(0, 0.5, -1.5), *scored(1, None, 2.0), *scored(2, None, None)]
    found = measure(problems, responses, 2)
    assert found["mean_reward"]["value"] == pytest.approx((-0.5 + 2.0) / 2) and found["mean_reward"]["problems"] == 2
    assert found["unscorable"]["value"] == 0.5 and found["by"]["level"]["2"]["value"] == 2.0
    assert not {"pass@1", "strict pass@1", "no_answer"} & found.keys() and found["pass_at_k"] == []
    row = accuracy(responses)
    assert (row["mean_reward"], row["n"]) == (pytest.approx((0.5 - 1.5 + 2.0) / 3), 3) and "accuracy" not in row
    assert -1.5 <= row["low"] < row["mean_reward"] < row["high"] <= 2.0
    assert {"mean_reward", "low", "high", "n", "unscorable", "response_length"} == metrics_row(responses).keys()
    assert pass_rates(responses, lambda response: response.problem) == {0: -0.5, 1: 2.0, 2: None}
    assert all(Response.parse(json.loads(r.line())) == r for r in responses if r.outcome == SCORED)
    lost = Response.parse(json.loads(responses[2].line()))
    assert lost.outcome == UNSCORABLE and lost.worth is None and lost.reward != lost.reward
    tables = sheets({"mine": found | {"budgets": []}})
    assert tables[0].header[-1] == "mean reward" and tables[0].rows[0][-1].startswith("0.750 [")
    assert tables[1].header == ["benchmark", "tokens", "overlong %", "unscorable %"]
    point = {"budget": 4, "cut": 0.5, "mean_reward": found["mean_reward"], "response_length": found["response_length"]}
    scaling = next(sheet for sheet in sheets({"mine": found | {"budgets": [point]}}) if "scaling" in sheet.title)
    assert scaling.header == ("thinking", "mean reward", "tokens", "cut %") and len(scaling.rows[0]) == 4


def test_both_where_correctness_is_one_of_several_rewards():
    right, wrong = (dataclasses.replace(r, reward=x) for r, x in zip(said(0, "2", "3"), (1.25, 0.25), strict=True))
    row = summary([right, wrong])
    assert (row["accuracy"], row["mean_reward"]) == (0.5, 0.75) and row["mean_reward_low"] <= 0.75
    found = measure([problem(0)], [right, wrong], 2)
    assert (found["pass@1"]["value"], found["mean_reward"]["value"]) == (0.5, 0.75)
    assert sheets({"x": found | {"budgets": []}})[0].header[-2:] == ["pass@1 %", "mean reward"]
    assert "lenient_accuracy" not in row and "lenient pass@1" not in found  # functions judge responses as they are
