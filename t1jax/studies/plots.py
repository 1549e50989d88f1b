# SPDX-License-Identifier: Apache-2.0
"""The figure of a study, as PNG bytes: arms side by side, reward against KL, or thinking against votes.

Every run is a dot, the bar is the mean over seeds with its 95 % interval; lines are means with such intervals.
Deliberately not here: the numbers (findings.py), the style (reports/plots.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from t1jax.reports import plots
from t1jax.studies.significance import mean_interval

Trials = Mapping[str, Sequence[Mapping[str, Any]]]  # arm -> its runs
MANY = 8  # arms: then each is a row, and their lines over RL, which could not be told apart, are left out
MEASURES = {
    "accuracy": ("accuracy on held-out problems", True),
    "response_length": ("mean response, tokens", False),
    "overlong": ("responses over the limit", True),
    "entropy": ("entropy at the end of training, nats a token", False),
    "kl_start": ("KL from where RL began, nats a response", False),
}


def draw(
    name: str, measure: str, trials: Trials, results: Mapping[str, Any], theme: plots.Theme = plots.LIGHT
) -> bytes:
    """The PNG of a study. `results`: what findings.write writes to results.json."""
    if name == "inference_scaling":
        return _draw_thinking(results, theme)
    names = ["accuracy", *([measure] if measure != "accuracy" else [])]
    many = len(results["arms"]) >= MANY
    panels, height = (len(names), 1.2 + 0.26 * len(results["arms"])) if many else (len(names) + 1, 3.4)
    with plots.canvas(theme, 4.4 * panels, height) as (figure, output):
        axes = figure.subplots(1, panels, squeeze=False, sharey=many)[0]
        for ax, column in zip(axes, names, strict=False):
            _arms(ax, theme, results["arms"], column, many)
        if not many:
            _against_kl(axes[-1], theme, trials)
        figure.suptitle(results["title"], x=0.012, ha="left", fontsize=11, fontweight="bold", color=theme.ink)
    return output.getvalue()


def _colours(theme: plots.Theme) -> tuple[str, ...]:
    return (theme.after, theme.before, *theme.others, theme.faint)


def _arms(ax: Any, theme: plots.Theme, arms: Mapping[str, Any], column: str, rows: bool) -> None:
    """Each arm's runs, mean and interval, in a column of its own or, with `rows`, in a row, the first on top."""
    heading, percent = MEASURES[column]
    plots.styled(ax, theme, percent, along="x" if rows else "y")

    def draw(places: list[float], values: list[float], *style: str, **how: Any) -> None:
        ax.plot(*((values, places) if rows else (places, values)), *style, **how)

    for place, (arm, colour) in enumerate(zip(arms.values(), cycle(_colours(theme)), strict=False)):
        found = arm[column]
        draw([place] * len(found["values"]), found["values"], "o", color=colour, alpha=0.45, markersize=4)
        draw([place - 0.22, place + 0.22], [found["mean"]] * 2, color=colour, linewidth=2.4)
        if found["low"] is not None:
            draw([place] * 2, [found["low"], found["high"]], color=colour, linewidth=1.2)
    if rows:
        ax.set_yticks(range(len(arms)), list(arms))
        ax.set_ylim(len(arms) - 0.5, -0.5)
    else:
        ax.set_xticks(range(len(arms)), [label.replace(", ", ",\n") for label in arms], rotation=20, ha="right")
    ax.set_title(heading, loc="left", fontsize=9.5, color=theme.ink)


def _against_kl(ax: Any, theme: plots.Theme, trials: Trials) -> None:
    """Accuracy against KL from the start over the steps of RL: means over seeds, with 95 % intervals of both."""
    plots.styled(ax, theme, True)
    for (label, runs), colour in zip(trials.items(), cycle(_colours(theme)), strict=False):
        marks = list(zip(*(run["marks"] for run in runs), strict=True))
        (kl, kl_ends), (accuracy, ends) = (
            _with_ends([mean_interval([mark[column] for mark in at]) for at in marks], most)
            for column, most in (("kl_start", math.inf), ("accuracy", 1.0))
        )
        ax.errorbar(
            kl, accuracy, ends, kl_ends, fmt="o-", color=colour, markersize=4, linewidth=1.8, elinewidth=0.9,
            label=label,
        )  # fmt: skip
    ax.set_xlabel(MEASURES["kl_start"][0])
    ax.set_title("accuracy, over the steps of RL", loc="left", fontsize=9.5, color=theme.ink)
    ax.legend(fontsize=8)


def _with_ends(
    found: Sequence[tuple[float, float, float]], most: float
) -> tuple[list[float], list[list[float]] | None]:
    """(means, [distances down, distances up] of the intervals' ends within 0 to `most`); None of one seed."""
    means = [mean for mean, _, _ in found]
    if any(math.isnan(low) for _, low, _ in found):
        return means, None
    down = [mean - max(low, min(mean, 0.0)) for mean, low, _ in found]
    return means, [down, [min(high, max(mean, most)) - mean for mean, _, high in found]]


def _draw_thinking(results: Mapping[str, Any], theme: plots.Theme) -> bytes:
    marks = results["thinking"]
    with plots.canvas(theme, 9.6, 3.8) as (figure, output):
        left, right = figure.subplots(1, 2, sharey=True)
        for ax in (left, right):
            plots.styled(ax, theme, True)
        for mark, colour in zip(marks, (theme.before, *theme.others[:2], theme.after), strict=False):
            share = f"{100 * mark['step'] / marks[-1]['step']:.0f} % of RL"
            for ax, key, points in ((left, "budget", mark["scaling"]), (right, "tokens", mark["votes"])):
                x, y = [p[key] for p in points], [p["mean"] for p in points]
                if points[0]["low"] is not None:
                    low, high = ([min(max(p[end], 0.0), 1.0) for p in points] for end in ("low", "high"))
                    ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
                ax.plot(x, y, "o-", color=colour, markersize=4, linewidth=2, label=share)
        for ax in (left, right):
            ax.set_xscale("log", base=2)
            ax.set_ylim(-0.02, 1.02)  # lines at 0 and 100 % are inside
        budgets = [point["budget"] for point in marks[0]["scaling"]]
        left.set_xticks(budgets, [str(budget) for budget in budgets])
        ticks = [32, 64, 128, 256, 512]
        right.set_xticks(ticks, [str(tick) for tick in ticks])
        left.set_xlabel("thinking tokens before the answer is forced")
        right.set_xlabel("tokens of all that vote (1, 2, 4, 8 responses)")
        left.set_title("One response, cut", loc="left", fontsize=10, color=theme.ink)
        right.set_title("Majority vote, nothing cut", loc="left", fontsize=10, color=theme.ink)
        left.legend(fontsize=8.5)
        figure.suptitle(results["title"], x=0.012, ha="left", fontsize=11, fontweight="bold", color=theme.ink)
    return output.getvalue()
