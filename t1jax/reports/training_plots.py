# SPDX-License-Identifier: Apache-2.0
"""Curves over the steps of training, as PNG bytes: the cold start and RL side by side.

Deliberately not here: which curves there are (columns.py), the style (plots.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from t1jax.reports.columns import MAIN, PHASE_NAMES, SMOOTH_FROM, Curve, series, smooth
from t1jax.reports.plots import Theme, canvas, styled
from t1jax.reports.runs import Rows
from t1jax.reports.wording import amount, measure

DASHES = ("-", "--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)))


def draw_curve(curve: Curve, rows: Rows, results: Mapping[str, Any], theme: Theme) -> bytes | None:
    """The PNG of one figure over steps, cold start and RL side by side; None if no row has any of its columns."""
    phases = [s for s in PHASE_NAMES if any(series(rows, s, column)[0].size for column, _ in curve.columns)]
    if not phases:
        return None
    with canvas(theme, 5.2, 3.0) as (figure, output):
        ratios = [1 if s == "sft" and len(phases) > 1 else 2 for s in phases]
        axes = figure.subplots(1, len(phases), width_ratios=ratios, squeeze=False)[0]
        for ax, stage in zip(axes, phases, strict=True):
            styled(ax, theme, curve.percent)
            colours = (theme.before if stage == "sft" else theme.after, *theme.others, theme.faint)
            for (column, label), colour, dash in zip(curve.columns, colours, DASHES, strict=False):
                steps, values = series(rows, stage, column)
                _line(ax, steps, values, colour, label, dash if label else "-")
            main = measure(results.get("rl") or results.get("sft")).replace(" ", "_")
            if curve.name in MAIN and stage == "rl" and curve.name == main:
                _held_out(ax, rows, results, theme)
            if curve.percent:
                bottom, top = ax.get_ylim()
                ax.set_ylim(max(bottom, -0.02 * max(top, 0.05)), min(max(top, 0.05), 1.02))
            ax.set_xlabel(f"step of {PHASE_NAMES[stage]}")
            if ax.get_legend_handles_labels()[0]:
                ax.legend(loc="best", fontsize=8.5)
        figure.suptitle(curve.title, x=0.012, ha="left", fontsize=11, fontweight="bold", color=theme.ink)
    return output.getvalue()


def _line(ax: Any, steps: np.ndarray, values: np.ndarray, colour: str, label: str, dash: Any) -> None:
    """The values; if there are many, faint with their running mean on top."""
    many = len(values) >= SMOOTH_FROM
    if many:
        ax.plot(steps, values, color=colour, alpha=0.28, linewidth=0.9)
        values = smooth(values, 2 * (len(values) // 30) + 3)
    ax.plot(steps, values, color=colour, linewidth=1.9, label=label or None, linestyle=dash,
            marker="o" if len(values) == 1 else None, markersize=4)  # fmt: skip


def _held_out(ax: Any, rows: Rows, results: Mapping[str, Any], theme: Theme) -> None:
    """Held-out accuracy or mean reward as points with intervals: before RL, during, after."""
    last = max(row["step"] for row in rows if row["stage"] == "rl")
    points = [
        (0, results.get("sft"), theme.before, "before RL, held out"),
        (last, results.get("rl"), theme.after, "after RL, held out"),
    ]
    points += [
        (row["step"], row, theme.faint, "") for row in rows
        if row["stage"] == "evaluate" and 0 < row["step"] < last and any(row.get(main) is not None for main in MAIN)
    ]  # fmt: skip
    for step, share, colour, label in points:
        if not share:
            continue  # an unfinished run
        y = amount(share)
        low, high = share.get("low"), share.get("high")
        known = low is not None and high is not None
        ax.errorbar(
            [step], [y], [[y - low], [high - y]] if known else None, fmt="o", color=colour, markersize=4.5,
            capsize=2.5, elinewidth=1.3, label=label or None, zorder=3,
        )  # fmt: skip
