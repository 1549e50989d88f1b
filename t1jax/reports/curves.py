# SPDX-License-Identifier: Apache-2.0
"""The charts of the report: metrics and results of one or several runs as lines over steps and budgets.

... -> evaluate -> **curves** -> report. columns.py lists the columns; the PNGs beside the report show the same. Charts
over steps of RL are one group, those of the cold start another, those over budgets a third.
Deliberately not here: how a chart is drawn (charts.py), numbers in words (story.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t1jax.reports import columns
from t1jax.reports.charts import MOST, Chart, Series
from t1jax.reports.runs import Run, held_out
from t1jax.reports.wording import graded, measure, of_responses, triple

COLOURS = {"sft": "before", "rl": "after"}
SPARE = ("3", "4", "5", "6")  # of several columns in one chart
LINE_COLOURS = 6  # of several runs (charts.css); the lines of further runs are dashed
BEHAVIOUR = (("gave_up", "gave up", "2"), ("false_claims", "false claims", "5"))


def training(run: Run) -> list[Chart]:
    """Charts over the steps of RL, held-out accuracy or mean reward during RL, and the loss of the cold start."""
    found = [_of_columns(curve, run, "rl") for curve in columns.CURVES]
    points = held_out(run)
    if points:
        main = _main(points)
        place = next(i for i, chart in enumerate(found) if chart.name == f"rl_{main}")
        found[place] = _with(found[place], _shares("held out", "3", points, main))
    lines = [_shares(label, colour, points, column) for column, label, colour in BEHAVIOUR]
    lines = [line for line in lines if len(line.x) > 1]
    if lines:
        caption = (
            "Share of held-out problems, temperature 1, with 95 % intervals. Gave up: the thinking ended without "
            "claiming success. False claim: an attempt called right that is not."
        )
        found.append(_steps("behaviour", "Gave up, claimed falsely", caption, lines, "rl", percent=True))
    return [*found, _of_columns(columns.HEALTH[0], run, "sft")]


def health(run: Run) -> list[Chart]:
    """Charts of loss, gradient norm and agreement of sampler and learner, for either stage."""
    cold = [_of_columns(curve, run, "sft") for curve in columns.HEALTH[1:]]  # its loss is among those above
    return cold + [_of_columns(curve, run, "rl") for curve in columns.HEALTH]


def scaling(run: Run) -> Chart:
    """Accuracy against the budget of thinking tokens, before and after RL."""
    lines = [_budgets(run, stage, columns.STAGE_NAMES[stage], COLOURS[stage]) for stage in ("sft", "rl")]
    points = run.results.get("scaling") or [{"accuracy": 0.0}]
    return _scaling("scaling", f"{measure(points[0]).capitalize()} on held-out problems", lines, graded(points[0]))


def compared(runs: Sequence[Run]) -> list[Chart]:
    """Charts over the steps of RL with a line a run."""
    mains = {_main(held_out(run)) for run in runs}
    found = [
        _steps(
            "held_out", f"{columns.MAIN[main]} on held-out problems",
            "At temperature 1, with 95 % intervals: before RL at step 0, during it on fewer problems, after it.",
            [
                _shares(run.name, _colour(i), held_out(run), main, _switch(i))
                for i, run in enumerate(runs) if _main(held_out(run)) == main
            ],
            "rl", percent=main == "accuracy",
        )
        for main in sorted(mains)
    ]  # fmt: skip
    for curve in (*columns.CURVES, *columns.HEALTH):
        for column, label in curve.columns:
            lines = [_line(run, "rl", column, run.name, _colour(i), _switch(i)) for i, run in enumerate(runs)]
            if label and not any(y for line in lines for y in line.y):
                continue  # nothing was ever penalised so
            title = f"{curve.title}: {label}" if label else curve.title
            caption = curve.caption
            if column in columns.MAIN:
                title = f"{columns.MAIN[column]} in training"
                caption = "Among the step's samples, at the training temperature."
            found.append(_steps(column, title, caption, lines, "rl", percent=curve.percent))
    return found


def scaling_compared(runs: Sequence[Run]) -> list[Chart]:
    """Accuracy against budgets with a line a run, one chart a stage."""
    return [
        _scaling(
            f"scaling_{stage}" if main == "accuracy" else f"scaling_reward_{stage}",
            f"{columns.MAIN[main]} {columns.STAGE_NAMES[stage]}",
            [
                _budgets(run, stage, run.name, _colour(i), _switch(i))
                for i, run in enumerate(runs) if _main(held_out(run)) == main
            ],
            main == "accuracy",
        )
        for main in sorted({_main(held_out(run)) for run in runs})
        for stage in ("rl", "sft")
    ]  # fmt: skip


def colour_classes(i: int) -> str:
    """The classes of the i-th run's lines and swatches."""
    colour, switch = _colour(i), _switch(i)
    return f"s-{colour}{' dashed' if switch['dashed'] else ''}"


def thin(steps: np.ndarray, values: np.ndarray, most: int = MOST) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """At most `most` points, each the mean of neighbours, and their names; no names if nothing was averaged."""
    if len(steps) <= most:
        return steps, values, []
    size = -(-len(steps) // most)
    starts = np.arange(0, len(steps), size)
    ends = np.minimum(starts + size, len(steps))
    means = np.add.reduceat(values, starts) / (ends - starts)
    first, last = steps[starts], steps[ends - 1]
    names = [f"steps {a:,.0f}–{b:,.0f}" if b > a else f"step {a:,.0f}" for a, b in zip(first, last, strict=True)]
    return (first + last) / 2, means, names


def _colour(i: int) -> str:
    return str(i % LINE_COLOURS + 1)


def _switch(i: int) -> dict[str, Any]:
    return {"run": f"r{i}", "dashed": i >= LINE_COLOURS}


def _line(run: Run, stage: str, column: str, label: str, colour: str, more: Mapping[str, Any] | None = None) -> Series:
    x, y, names = thin(*columns.series(run.rows, stage, column))
    trend = columns.smooth(y, 2 * (len(y) // 30) + 3).tolist() if len(y) >= columns.SMOOTH_FROM else ()
    return Series(label, colour, x.tolist(), y.tolist(), trend=trend, names=names, **(more or {}))


def _shares(
    label: str, colour: str, points: Sequence[tuple[int, Mapping[str, Any]]], column: str,
    more: Mapping[str, Any] | None = None,
) -> Series:  # fmt: skip
    """A share measured at some steps, with its own interval if it has one, else Wilson's."""
    found = []
    for step, point in points:
        share = point if column in columns.MAIN else of_responses(point, column)
        if share:
            found.append((step, *triple(share)))
    x, y, low, high = zip(*found, strict=True) if found else ((), (), (), ())
    return Series(label, colour, x, y, low, high, points=True, **(more or {}))


def _budgets(run: Run, stage: str, label: str, colour: str, more: Mapping[str, Any] | None = None) -> Series:
    points = sorted(
        (p for p in run.results.get("scaling") or [] if p["stage"] == stage), key=lambda point: point["budget"]
    )
    x = [point["budget"] for point in points]
    y, low, high = zip(*map(triple, points), strict=True) if points else ((), (), ())
    return Series(label, colour, x, y, low, high, **(more or {}))


def _of_columns(curve: columns.Curve, run: Run, stage: str) -> Chart:
    colours = (COLOURS[stage], *SPARE)
    lines = [
        _line(run, stage, column, label or ("samples of the step" if column in columns.MAIN else ""), colour)
        for (column, label), colour in zip(curve.columns, colours, strict=False)
    ]
    return _steps(curve.name, curve.title, curve.caption, lines, stage, percent=curve.percent)


def _steps(name: str, title: str, caption: str, lines: Sequence[Series], stage: str, *, percent: bool) -> Chart:
    if stage == "sft":
        title += ", cold start"
    if any(len(line.names) for line in lines):
        caption += " Each point is a mean over several steps."
    label = f"step of {columns.PHASE_NAMES[stage]}"
    return Chart(f"{stage}_{name}", title, caption, lines, stage, label, percent=percent)


def _main(points: Sequence[tuple[int, Mapping[str, Any]]]) -> str:
    """What a run's responses are judged by, a column."""
    return "accuracy" if not points or graded(points[0][1]) else "mean_reward"


def _scaling(name: str, title: str, lines: Sequence[Series], percent: bool) -> Chart:
    caption = "Budgets on a log scale. Shaded: 95 % intervals."
    label = "thinking tokens before the answer is forced"
    return Chart(name, title, caption, lines, "budget", label, point="budget", percent=percent, log=True)


def _with(chart: Chart, line: Series) -> Chart:
    return Chart(**(vars(chart) | {"series": (*chart.series, line)}))
