# SPDX-License-Identifier: Apache-2.0
"""The style of figures as PNG bytes, and those of evaluations: inference scaling, pass@k, pass@1 by label.

... -> evaluate -> **plots** -> report. Figures come in a light and a dark theme. Matplotlib is imported only when
something is drawn, and its Figure objects are used directly: no window, no global state.
Deliberately not here: curves over training (training_plots.py), charts of the page (curves.py, charts.py).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from t1jax.reports.columns import STAGE_NAMES
from t1jax.reports.runs import Rows
from t1jax.reports.wording import graded, measure, triple


@dataclass(frozen=True)
class Theme:
    """Colours that read well on one background."""

    paper: str
    ink: str
    faint: str
    grid: str
    before: str
    after: str
    others: tuple[str, ...]


LIGHT = Theme("#ffffff", "#1f2933", "#6b7785", "#e4e7eb", "#c2570c", "#1d5fd1", ("#0f8a6a", "#8e44c9", "#b0332a"))
DARK = Theme("#171c24", "#dfe4ea", "#94a0ae", "#2b333f", "#f59e4b", "#6ea8ff", ("#3fcf9f", "#c48bf5", "#ff8278"))


def draw_scaling(points: Rows, theme: Theme) -> bytes:
    """The PNG of accuracy, or mean reward, against the budget of thinking tokens, a line per stage, with intervals."""
    stages = list(dict.fromkeys(point["stage"] for point in points))
    with canvas(theme, 5.8, 3.5) as (figure, output):
        ax = figure.subplots()
        styled(ax, theme, percent=graded(points[0]))
        spare = iter(theme.others)
        for stage in stages:
            colour = {"sft": theme.before, "rl": theme.after}.get(stage) or next(spare, theme.faint)
            mine = sorted((p for p in points if p["stage"] == stage), key=lambda p: p["budget"])
            budget, y, low, high = np.array([(p["budget"], *triple(p)) for p in mine], float).T
            ax.fill_between(budget, low, high, color=colour, alpha=0.18, linewidth=0)
            ax.plot(budget, y, color=colour, marker="o", markersize=4, linewidth=2)
            ax.annotate(
                STAGE_NAMES.get(stage, stage), (budget[-1], y[-1]), xytext=(9, 0), textcoords="offset points",
                va="center", color=colour, fontsize=10, fontweight="bold", annotation_clip=False,
            )  # fmt: skip
        budgets = sorted({p["budget"] for p in points})
        if budgets[0] > 0:
            ax.set_xscale("log", base=2)
        else:
            ax.set_xscale("symlog", base=2, linthresh=max(1, min(b for b in budgets if b > 0)) if budgets[-1] else 1)
        ax.set_xticks(budgets, [f"{b:,}" for b in budgets])
        ax.minorticks_off()
        if graded(points[0]):
            top = min(1.02, 1.08 * max(p["high"] for p in points))
            ax.set_ylim(-0.02 * top, top)  # lines at 0 and 100 % are inside
        ax.set_xlabel("thinking tokens before the answer is forced")
        title = f"{measure(points[0]).capitalize()} on held-out problems"
        ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=theme.ink)
    return output.getvalue()


def draw_samples(benchmarks: Mapping[str, Mapping[str, Any]], theme: Theme) -> bytes:
    """The PNG of pass@k and maj@k against k, one panel per benchmark, 95 % intervals shaded.

    `benchmarks`: name -> what evaluation.figures.measure returns.
    """
    with canvas(theme, 4.6 * len(benchmarks), 3.5) as (figure, output):
        (axes,) = figure.subplots(1, len(benchmarks), squeeze=False)
        for ax, (name, result) in zip(axes, benchmarks.items(), strict=True):
            styled(ax, theme, percent=True)
            for column, label, colour in (
                ("pass_at_k", "pass@k", theme.after),
                ("majority_at_k", "maj@k", theme.before),
            ):
                points = [point for point in result[column] if point["value"] is not None]
                k, value, low, high = (
                    np.array([point[part] for point in points], float) for part in ("k", "value", "low", "high")
                )
                ax.fill_between(k, low, high, color=colour, alpha=0.18, linewidth=0)
                ax.plot(k, value, color=colour, marker="o", markersize=4, linewidth=2, label=label)
            ks = [point["k"] for point in result["pass_at_k"]]
            ax.set_xscale("log", base=2)
            ax.set_xticks(ks, [str(k) for k in ks])
            ax.minorticks_off()
            ax.set_ylim(-0.02, 1.02)
            ax.set_xlabel("k, samples of a problem")
            ax.set_title(name, loc="left", fontsize=11, fontweight="bold", color=theme.ink)
            ax.legend(loc="best", fontsize=8.5)
    return output.getvalue()


def draw_groups(name: str, by: Mapping[str, Mapping[str, Mapping[str, Any]]], theme: Theme) -> bytes:
    """The PNG of pass@1 of a benchmark by label, one panel per label, with 95 % intervals.

    `by`: label -> value -> figure, as evaluation.figures.measure returns it.
    """
    sizes = [len(values) for values in by.values()]
    with canvas(theme, 6.4, 0.7 * len(by) + 0.3 * sum(sizes)) as (figure, output):
        axes = figure.subplots(len(by), 1, squeeze=False, height_ratios=sizes)[:, 0]
        for ax, (label, values) in zip(axes, by.items(), strict=True):
            styled(ax, theme, percent=False)
            ax.grid(visible=False)
            shown = {value: figure for value, figure in values.items() if figure["value"] is not None}
            for place, point in enumerate(shown.values()):
                ax.plot([point["low"], point["high"]], [place, place], color=theme.after, alpha=0.35, linewidth=5)
                ax.plot([point["value"]], [place], color=theme.after, marker="o", markersize=6)
            names = [f"{value or 'none'} ({point['problems']})" for value, point in shown.items()]
            ax.set_yticks(range(len(shown)), names)
            ax.set_ylim(len(shown) - 0.5, -0.5)  # the first on top
            ax.set_xlim(-0.02, 1.02)
            ax.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.3g} %")
            ax.set_title(f"{name} by {label}", loc="left", fontsize=11, fontweight="bold", color=theme.ink)
    return output.getvalue()


@contextmanager
def canvas(theme: Theme, width: float, height: float) -> Iterator[tuple[Any, io.BytesIO]]:
    """(figure to draw on, buffer); the PNG is in the buffer when the block ends."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    settings: Any = {
        "font.size": 9.5, "text.color": theme.ink, "axes.labelcolor": theme.faint, "axes.edgecolor": theme.grid,
        "xtick.color": theme.faint, "ytick.color": theme.faint, "legend.labelcolor": theme.ink,
        "legend.frameon": False, "text.parse_math": False, "lines.solid_capstyle": "round",
    }  # fmt: skip
    output = io.BytesIO()
    with rc_context(settings):
        figure = Figure(figsize=(width, height), dpi=170, facecolor=theme.paper, layout="constrained")
        yield figure, output
        figure.savefig(output, format="png", facecolor=theme.paper)


def styled(ax: Any, theme: Theme, percent: bool, along: str = "y") -> None:
    """The house style for axes; `percent`: what is read along the axis `along`, x or y, is a share."""
    ax.set_facecolor(theme.paper)
    ax.grid(axis=along, color=theme.grid, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(length=0)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    if percent:
        getattr(ax, f"{along}axis").set_major_formatter(lambda y, _: f"{100 * y:.3g} %")
