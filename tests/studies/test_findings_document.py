# SPDX-License-Identifier: Apache-2.0
"""docs/findings.md: p, Holm, verdicts, seeds and margins follow from the means and intervals that it prints."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from scipy import stats

from t1jax.studies import shapes, significance, tables
from t1jax.studies.claims import STUDIES

TEXT = (Path(__file__).parents[2] / "docs/findings.md").read_text(encoding="utf-8")
SEEDS = 5
NUMBER = r"[+-]?[0-9.]+"
CLAIM = re.compile(
    rf"\|(?P<claim>[^|]*)\| (?P<task>pairs|Countdown|pairs again|four numbers|smaller sums) "
    rf"\| (?P<mean>{NUMBER}) \[(?P<low>{NUMBER}), (?P<high>{NUMBER})\] "
    r"(?P<unit>points|tokens|nats) \| (?P<p>[^|]*) \| (?P<p_holm>[^|]*) \| (?P<verdict>[^|]*) "
    rf"\| (?P<needed>[0-9,]+(?: to [0-9,]+)?) for the (?P<effect>{NUMBER}) (?P=unit) (?P<source>seen|of the paper) \|"
)
TASKS = (
    "pairs",
    "Countdown",
    "pairs again",
    "four numbers",
    "smaller sums",
)  # Holm's correction is over the rows of each
FIGURES = ("inference_scaling", "oversampling")  # the studies of the paper's two figures
ROWS = [match.groupdict() for match in CLAIM.finditer(TEXT)]


def test_all_claims_are_found():
    figures = [contrast for name in FIGURES for contrast in STUDIES[name].contrasts]
    expected = [
        21,
        9,
        *(len(claims) for claims in (STUDIES["choices"].contrasts, figures, STUDIES[FIGURES[1]].contrasts)),
    ]
    assert [sum(row["task"] == task for row in ROWS) for task in TASKS] == expected
    assert len(ROWS) == TEXT.count("] points |") + TEXT.count("] tokens |") + TEXT.count("] nats |")


def error(row):
    """The standard error of the mean that the interval stands for."""
    return (float(row["high"]) - float(row["low"])) / 2 / stats.t.ppf(0.975, SEEDS - 1)


@pytest.mark.parametrize("task", TASKS)
def test_p_and_verdicts_follow_from_the_intervals(task):
    rows = [row for row in ROWS if row["task"] == task]
    p = [float(2 * stats.t.sf(abs(float(row["mean"])) / error(row), SEEDS - 1)) for row in rows]
    for row, raw, corrected in zip(rows, p, significance.holm(p), strict=True):
        assert (row["p"], row["p_holm"]) == (tables._p(raw), tables._p(corrected)), row
        verdict = (
            "not told apart" if corrected >= 0.05 else "**holds**" if float(row["mean"]) > 0 else "**the other way**"
        )
        assert row["verdict"] == verdict, row


def test_seeds_needed_follow_from_the_intervals():
    for row in ROWS:
        claims = sum(other["task"] == row["task"] for other in ROWS)
        spread = error(row) * math.sqrt(SEEDS)
        needed = [significance.seeds_needed(float(row["effect"]), spread, tested) for tested in (1, claims)]
        assert row["needed"] == " to ".join(dict.fromkeys(f"{count:,}" for count in needed)), row
        assert row["source"] == "of the paper" or row["effect"] == row["mean"], row


def column(row: str) -> list[float]:
    """The means of a row of a table, as shares: `| 8 | 7.3 [5.3, 9.3] | 7.5 ...`."""
    return [float(number) / 100 for number in re.findall(r"\| ([0-9.]+) \[", row)]


def test_margins_follow_from_the_tables():
    rows = TEXT.partition("| accuracy, %, by thinking tokens |")[2].split("\n\n")[0].splitlines()[2:]
    curves = [list(curve) for curve in zip(*map(column, rows), strict=True)]
    assert len(rows) == 5 and len(curves) == 4
    ends = {
        task: [column(re.search(rf"\| {task}: R = {count} \|.*", TEXT)[0])[0] for count in (4, 16, 64)]
        for task in ("pairs", "Countdown")
    }
    expected = [
        shapes.flat_before(curves), shapes.equal_at_smallest(curves), shapes.fans_out(curves),
        *(shapes.ordered_at_end([[end] for end in ends[task]]) for task in ("pairs", "Countdown")),
    ]  # fmt: skip
    table = TEXT.partition("| shape | the authors' curves |")[2].split("\n\n")[0]
    found = [float(x) for x in re.findall(r"\| [+-][0-9.]+ \| ([+-][0-9.]+)(?: \||;)", table)]
    found += [float(re.search(r"on Countdown ([+-][0-9.]+)", table)[1])]
    assert found == pytest.approx([100 * x for x in expected], abs=0.051)
    theirs = [float(x) for x in re.findall(r"\| ([+-][0-9.]+) \| [+-]", table)]
    claimed = [
        contrast.paper
        for study in FIGURES
        for contrast in STUDIES[study].contrasts
        if contrast.claim.startswith("shape")
    ]
    assert theirs == pytest.approx([100 * x for x in claimed], abs=0.051)


def test_margins_of_each_seed_are_those_of_the_claims():
    text = TEXT.partition("| margin, points | seed 0 |")[2].split("\n\n")[0]
    margins = {
        cells[1].strip(): [float(cell) for cell in cells[2:-1]]
        for cells in (line.split("|") for line in text.splitlines()[2:])
    }
    claims = {row["claim"].strip(): float(row["mean"]) for row in ROWS if row["task"] == "four numbers"}
    for shape, claim in {
        "flat before RL": "shape: before RL the curve is flat",
        "equal at the smallest budget": "shape: after any RL nearly equal at the smallest budget",
        "a fan": "shape: a fan, wider with more RL",
        "ordered at the end": "shape: at the end R = 4 is lowest, R = 64 highest",
    }.items():
        assert len(margins[shape]) == SEEDS
        assert sum(margins[shape]) / SEEDS == pytest.approx(claims[claim], abs=0.1)


def test_the_curves_of_four_numbers_have_the_shapes_that_are_claimed():
    rows = TEXT.partition("## The paper's two figures")[2].partition("| accuracy, %, by thinking tokens |")[2]
    curves = list(zip(*map(column, rows.split("\n\n")[0].splitlines()[2:]), strict=True))
    assert [len(curve) for curve in curves] == [5] * 4
    assert min(shapes.flat_before(curves), shapes.equal_at_smallest(curves), shapes.fans_out(curves)) > 0
    rows = TEXT.partition("| accuracy, %, by steps of RL |")[2].split("\n\n")[0].splitlines()[2:]
    curves = list(zip(*map(column, rows), strict=True))
    assert [len(curve) for curve in curves] == [4] * 3 and shapes.ordered_at_end(curves) > 0
    ends = [column(re.search(rf"\| four numbers: R = {count} \|.*", TEXT)[0])[0] for count in (4, 16, 64)]
    assert ends == [curve[-1] for curve in curves]
    higher = next(row for row in ROWS if row["task"] == "four numbers" and "64 against 4: higher acc" in row["claim"])
    assert 100 * (ends[2] - ends[0]) == pytest.approx(float(higher["mean"]), abs=0.101)


def test_smaller_sums_do_not_part_the_curves_at_the_end_but_on_the_way():
    rows = TEXT.partition("| smaller sums: accuracy, %, by steps of RL |")[2].split("\n\n")[0].splitlines()[2:]
    curves = list(zip(*map(column, rows), strict=True))
    ends = [column(re.search(rf"\| smaller sums: R = {count} \|.*", TEXT)[0])[0] for count in (4, 16, 64)]
    assert ends == [curve[-1] for curve in curves] and len(rows) == 4
    claims = {row["claim"].strip(): float(row["mean"]) for row in ROWS if row["task"] == "smaller sums"}
    assert 100 * (ends[2] - ends[0]) == pytest.approx(claims["R = 64 against 4: higher accuracy"], abs=0.101)
    text = TEXT.partition("| smaller sums: margin, points |")[2].split("\n\n")[0]
    after_9, after_18, end = ([float(cell) for cell in line.split("|")[2:-1]] for line in text.splitlines()[2:])
    assert len(after_9) == len(after_18) == len(end) == SEEDS
    assert min(after_18) > 0 > min(after_9) and sum(margin > 0 for margin in end) == 4
    assert sum(end) / SEEDS == pytest.approx(claims["shape: at the end R = 4 is lowest, R = 64 highest"], abs=0.1)


def test_the_papers_effects_are_of_the_shares_of_rl_that_are_measured():
    """Figure 1 without its curve after 90 %, by hand: a fan of 52.6 - 45.4 points, 1.1 more at the smallest budget."""
    paper = {contrast.measure: contrast.paper for contrast in STUDIES["inference_scaling"].contrasts}
    assert paper["fans_out"] == pytest.approx(0.526 - 0.454 - (0.305 - 0.294))
    assert paper["equal_at_smallest"] == pytest.approx(0.25 * (0.526 - 0.305) - (0.305 - 0.294))
    assert paper["flat_before"] == pytest.approx(0.25 * (0.526 - 0.305) - (0.243 - 0.213))
