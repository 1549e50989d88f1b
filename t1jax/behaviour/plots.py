# SPDX-License-Identifier: Apache-2.0
"""The figures of the analysis of behaviour, as PNG bytes, in the style of the report's.

... -> behaviour -> **plots** -> report. Most are over training: lines go through the evaluations, with their 95 %
intervals shaded. Those of a whole measurement, before and after RL, have larger points: they are on other and more
problems than those in between. Where one step has both, the measurement is shown.
Deliberately not here: what is measured (behaviour.py), the style (reports/plots.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t1jax.behaviour.behaviour import STOPS, Figure
from t1jax.reports.plots import Theme, canvas, styled

Summary = Mapping[str, Any]  # what behaviour.summarise returns, with name, step and final


@dataclass(frozen=True)
class Plot:
    """Lines over training."""

    name: str  # of the PNG file
    title: str
    caption: str
    lines: tuple[tuple[str, Callable[[Summary], Figure]], ...]
    percent: bool = True


PLOTS = (
    Plot(
        "behaviour-attempts", "First attempt and recovery",
        "Right in the end; right at the first attempt; right in the end after a wrong first attempt.",
        (("right", lambda s: s["accuracy"]), ("first attempt right", lambda s: s["first_attempt"]),
         ("recovered", lambda s: s["recovery"])),
    ),
    Plot(
        "behaviour-habits", "Habits", "Share of responses that do it at least once.",
        (("reflects", lambda s: s["habits"]["reflects"]), ("backtracks", lambda s: s["habits"]["backtracks"]),
         ("verifies", lambda s: s["habits"]["verifies"]), ("repeats", lambda s: s["habits"]["repeats"])),
    ),
    Plot(
        "behaviour-counts", "Times a response", "Mean number in a response.",
        (("attempts", lambda s: s["means"]["attempts"]), ("reflections", lambda s: s["means"]["reflections"]),
         ("backtracks", lambda s: s["means"]["backtracks"]), ("verifications", lambda s: s["means"]["verifications"])),
        percent=False,
    ),
    Plot(
        "behaviour-length", "Length by correctness (tokens)", "Mean tokens of right and of wrong responses.",
        (("right", lambda s: s["length_right"]), ("wrong", lambda s: s["length_wrong"])),
        percent=False,
    ),
)  # fmt: skip
STOPS_NAME, STOPS_TITLE = "behaviour-stops", "How responses end"
STOPS_CAPTION = "Shares of all responses: verified, answered without, given up, cut off at the limit."
LENGTHS_NAME, LENGTHS_TITLE = "behaviour-lengths", "How long right and wrong responses are"
LENGTHS_CAPTION = "Shares of the scorable responses of the first and of the last evaluation."


def over_training(summaries: Sequence[Summary]) -> list[Summary]:
    """Those with a step, one for each, in order."""
    timed = sorted((s for s in summaries if s["step"] is not None), key=lambda s: (s["step"], s["final"]))
    return list({s["step"]: s for s in timed}.values())


def draw_lines(plot: Plot, summaries: Sequence[Summary], theme: Theme) -> bytes:
    """The PNG of one plot; `summaries`: see `over_training`."""
    colours = (theme.after, theme.before, *theme.others)
    with canvas(theme, 5.2, 3.1) as (figure, output):
        ax = figure.subplots()
        styled(ax, theme, plot.percent)
        for (label, figure_of), colour, dash in zip(plot.lines, colours, ("-", "--", "-.", ":"), strict=False):
            points = [(s["step"], figure_of(s), s["final"]) for s in summaries]
            points = [point for point in points if point[1]["value"] is not None]
            steps, values, low, high = (
                np.array([get(step, share) for step, share, _ in points], float)
                for get in (
                    lambda step, _: step,
                    lambda _, share: share["value"],
                    lambda _, share: share["value"] if share["low"] is None else share["low"],
                    lambda _, share: share["value"] if share["high"] is None else share["high"],
                )
            )
            ax.fill_between(steps, low, high, color=colour, alpha=0.14, linewidth=0)
            ax.plot(steps, values, color=colour, linewidth=1.9, linestyle=dash, label=label)
            for final, size in ((False, 3.0), (True, 6.0)):
                chosen = np.array([point[2] for point in points], bool) == final
                ax.plot(steps[chosen], values[chosen], color=colour, marker="o", markersize=size, linestyle="none")
        if plot.percent:
            ax.set_ylim(-0.02, 1.02)
        else:
            ax.set_ylim(bottom=0)
        _finish(figure, ax, plot.title, theme)
    return output.getvalue()


def draw_stops(summaries: Sequence[Summary], theme: Theme) -> bytes:
    """The PNG of the shares of stop decisions, stacked."""
    colours = (theme.others[0], theme.after, theme.before, theme.others[2])
    with canvas(theme, 5.2, 3.1) as (figure, output):
        ax = figure.subplots()
        styled(ax, theme, percent=True)
        steps = [s["step"] for s in summaries]
        shares = [[s["stops"][stop]["value"] or 0.0 for s in summaries] for stop in STOPS]
        ax.stackplot(steps, shares, colors=colours, labels=STOPS, alpha=0.85, linewidth=0)
        ax.set_ylim(0, 1)
        ax.set_xlim(steps[0], steps[-1])
        _finish(figure, ax, STOPS_TITLE, theme)
    return output.getvalue()


def draw_lengths(summaries: Sequence[Summary], theme: Theme) -> bytes:
    """The PNG of the histograms of lengths by correctness, one below the other, on one axis of tokens."""
    with canvas(theme, 5.2, 1.1 + 1.6 * len(summaries)) as (figure, output):
        axes = np.ravel(figure.subplots(len(summaries), 1, sharex=True, sharey=True))
        for ax, summary in zip(axes, summaries, strict=True):
            styled(ax, theme, percent=True)
            edges, counts = summary["lengths"]["edges"], [summary["lengths"][name] for name in ("right", "wrong")]
            total = max(1, sum(map(sum, counts)))
            for label, found, colour in zip(("right", "wrong"), counts, (theme.after, theme.before), strict=True):
                shares = [count / total for count in found]
                ax.stairs(shares, edges, color=colour, fill=True, alpha=0.3)
                ax.stairs(shares, edges, color=colour, linewidth=1.5, label=label)
            ax.set_title(summary["name"], loc="left", fontsize=9.5, color=theme.ink)
        _finish(figure, axes[-1], LENGTHS_TITLE, theme, "tokens")
    return output.getvalue()


def _finish(figure: Any, ax: Any, title: str, theme: Theme, across: str = "step of RL") -> None:
    ax.set_xlabel(across)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, fontsize=8.5, handlelength=1.6,
              columnspacing=1.2)  # fmt: skip
    figure.suptitle(title, x=0.012, ha="left", fontsize=11, fontweight="bold", color=theme.ink)
