# SPDX-License-Identifier: Apache-2.0
"""The paper's two figures beside ours, as PNG bytes: accuracy by thinking budget, and over RL by responses per prompt.

The left panel has the authors' numbers (paper.py), the right one the means over our seeds with 95 % intervals. Tasks,
models and axes differ; what can be compared is the shape (shapes.py).
Deliberately not here: the numbers (findings.py), the plots of arms (plots.py), the style (reports/plots.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t1jax.reports import plots
from t1jax.studies import paper


@dataclass(frozen=True)
class Line:
    """A curve of a panel; low and high are empty where there is no interval."""

    label: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def draw(results: Mapping[str, Any], theme: plots.Theme = plots.LIGHT) -> bytes | None:
    """The figure of a study, if it is about one of the paper's. `results`: what results.json holds."""
    ours = f"here, {len(results['seeds'])} seed{'s' * (len(results['seeds']) > 1)}"
    if "thinking" in results:
        marks = results["thinking"]
        titles = ("T1 on AIME 2024, read off the authors' figure", ours)
        lines = _paper_budgets(theme), [_budgets(mark, mark["step"] / marks[-1]["step"], theme) for mark in marks]
        return _draw(results["title"], titles, lines, "thinking tokens before the answer is forced", True, theme)
    if "steps" in results:
        titles = ("T1 on Omni-MATH-500, the authors' data", ours)
        lines = _paper_steps(theme), _steps(results["steps"], theme)
        return _draw(results["title"], titles, lines, "steps of RL", False, theme)
    return None


def _draw(
    title: str,
    titles: Sequence[str],
    lines: Sequence[Sequence[Line]],
    heading: str,
    doubling: bool,
    theme: plots.Theme,
) -> bytes:
    """Two panels; `doubling`: the horizontal axis is logarithmic, with a tick at each point."""
    with plots.canvas(theme, 9.6, 3.8) as (figure, output):
        for ax, name, panel in zip(figure.subplots(1, 2), titles, lines, strict=True):
            plots.styled(ax, theme, percent=True)
            for line in panel:
                if line.low:
                    ax.fill_between(line.x, line.low, line.high, color=line.colour, alpha=0.15, linewidth=0)
                ax.plot(line.x, line.y, "o-", color=line.colour, markersize=4, linewidth=2, label=line.label)
            if doubling:
                ax.set_xscale("log", base=2)
            ax.set_xticks(panel[0].x, [f"{x:,}" for x in panel[0].x])
            ax.minorticks_off()
            ax.set_ylim(bottom=0)
            ax.set_xlabel(heading)
            ax.set_title(name, loc="left", fontsize=10, color=theme.ink)
            ax.legend(fontsize=8.5)
        figure.suptitle(title, x=0.012, ha="left", fontsize=11, fontweight="bold", color=theme.ink)
    return output.getvalue()


def _budgets(mark: Mapping[str, Any], share: float, theme: plots.Theme) -> Line:
    points = mark["scaling"]
    return Line(f"{100 * share:.0f} % of RL", _of_share(share, theme), [p["budget"] for p in points], *_means(points))


def _paper_budgets(theme: plots.Theme) -> list[Line]:
    return [
        Line(f"{100 * share:.0f} % of RL", _of_share(share, theme), paper.BUDGETS, accuracy)
        for share, accuracy in paper.SCALING.items()
    ]


def _steps(steps: Mapping[str, Any], theme: plots.Theme) -> list[Line]:
    return [
        Line(label, colour, steps["at"], *_means(points))
        for (label, points), colour in zip(steps["curves"].items(), _of_responses(theme), strict=True)
    ]


def _paper_steps(theme: plots.Theme) -> list[Line]:
    return [
        Line(f"K = {count}", colour, paper.STEPS, accuracy)
        for (count, accuracy), colour in zip(paper.RESPONSES.items(), _of_responses(theme), strict=True)
    ]


def _means(points: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """[means, lows, highs]; only the means of a single seed."""
    known = ("mean", "low", "high") if points[0]["low"] is not None else ("mean",)
    return [[point[name] for point in points] for name in known]


def _of_share(share: float, theme: plots.Theme) -> str:
    """The colour of the paper's curve with the nearest share of RL."""
    colours = dict(zip(paper.SCALING, (theme.before, *theme.others, theme.after), strict=True))
    return colours[min(colours, key=lambda known: abs(known - share))]


def _of_responses(theme: plots.Theme) -> tuple[str, str, str]:
    return theme.before, theme.others[0], theme.after
