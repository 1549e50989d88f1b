# SPDX-License-Identifier: Apache-2.0
"""The figures of the report, as PNG bytes: curves over steps, and the inference-scaling curve.

... -> evaluate -> **plots** -> report. They show what the charts in the page show (curves.py), in a light or a dark
theme. Matplotlib is imported only when something is drawn, and its Figure objects are used directly: no window, no
global state.
Deliberately not here: the page around the figures (run_page.py, page.py).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

Rows = Sequence[Mapping[str, Any]]
SMOOTH_FROM = 24  # points a curve must have before a running mean is drawn over it
STAGES = {"sft": "before RL", "rl": "after RL"}
PHASES = {"sft": "cold start", "rl": "RL"}


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


@dataclass(frozen=True)
class Curve:
    """A figure over steps: which columns of metrics.jsonl it shows and how."""

    name: str  # of the PNG file
    title: str
    caption: str
    columns: tuple[tuple[str, str], ...]  # (column, label); a single curve needs no label
    percent: bool = False


CURVES = (
    Curve(
        "reward",
        "Reward",
        "Mean of r′: 1 for a right answer, 0 for a wrong one, rl.penalty for a penalised one.",
        (("reward", ""),),
    ),
    Curve(
        "accuracy",
        "Accuracy",
        "Line: right answers among the step's samples, at the training temperature. "
        "Points: held-out problems at temperature 1, with 95 % intervals.",
        (("accuracy", ""),),
        percent=True,
    ),
    Curve(
        "response_length",
        "Response length (tokens)",
        "Mean tokens of a response, the end token included.",
        (("response_length", ""),),
    ),
    Curve(
        "entropy",
        "Entropy (nats per token)",
        "How undecided the model is about its next token.",
        (("entropy", ""),),
    ),
    Curve(
        "kl_anchor",
        "KL to the anchor (nats per response)",
        "How far the model is from the moving average of its own past, which holds it back.",
        (("kl_anchor", ""),),
    ),
    Curve(
        "penalties",
        "Penalised responses",
        "Share of responses that ran over the length limit, repeated themselves, or were garbled; "
        "unscorable ones count as neither right nor wrong.",
        (("overlong", "overlong"), ("repetition", "repetitive"), ("garbled", "garbled"), ("unscorable", "unscorable")),
        percent=True,
    ),
)
HEALTH = (
    Curve("loss", "Loss", "Token loss of the cold start; the policy loss of RL, whose sign says nothing.",
          (("loss", ""),)),
    Curve("grad_norm", "Gradient norm", "Before clipping.", (("grad_norm", ""),)),
    Curve(
        "logprob_gap", "Sampler against learner (nats)",
        "Difference between the sampler's and the learner's log-probability of a sampled token: about 0 in float32, "
        "a few hundredths in bfloat16.",
        (("logprob_gap", "largest"), ("log_ratio_std", "standard deviation")),
    ),
)  # fmt: skip


def series(rows: Rows, stage: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a column in one stage, where it has a value."""
    pairs = [(row["step"], row[column]) for row in rows if row["stage"] == stage and row.get(column) is not None]
    return np.array([step for step, _ in pairs], float), np.array([value for _, value in pairs], float)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the `window` (odd) values around each; near the ends, of those of them that exist."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, end = np.maximum(index - window // 2, 0), np.minimum(index + window // 2 + 1, len(values))
    return (total[end] - total[first]) / (end - first)


def draw_curve(curve: Curve, rows: Rows, results: Mapping[str, Any], theme: Theme) -> bytes | None:
    """The PNG of one figure over steps, cold start and RL side by side; None if no row has any of its columns."""
    phases = [s for s in PHASES if any(series(rows, s, column)[0].size for column, _ in curve.columns)]
    if not phases:
        return None
    with canvas(theme, 5.2, 3.0) as (figure, output):
        ratios = [1 if s == "sft" and len(phases) > 1 else 2 for s in phases]
        axes = figure.subplots(1, len(phases), width_ratios=ratios, squeeze=False)[0]
        for ax, stage in zip(axes, phases, strict=True):
            styled(ax, theme, curve.percent)
            colours = (theme.before if stage == "sft" else theme.after, *theme.others)
            for (column, label), colour, dash in zip(curve.columns, colours, ("-", "--", ":", "-."), strict=False):
                steps, values = series(rows, stage, column)
                _line(ax, steps, values, colour, label, dash if label else "-")
            if curve.name == "accuracy" and stage == "rl":
                _held_out(ax, rows, results, theme)
            if curve.percent:
                bottom, top = ax.get_ylim()
                ax.set_ylim(max(bottom, -0.02 * max(top, 0.05)), min(max(top, 0.05), 1.02))
            ax.set_xlabel(f"step of {PHASES[stage]}")
            if ax.get_legend_handles_labels()[0]:
                ax.legend(loc="best", fontsize=8.5)
        figure.suptitle(curve.title, x=0.012, ha="left", fontsize=11, fontweight="bold", color=theme.ink)
    return output.getvalue()


def draw_scaling(points: Rows, theme: Theme) -> bytes:
    """The PNG of accuracy against the budget of thinking tokens, one line a stage, 95 % intervals shaded."""
    stages = list(dict.fromkeys(point["stage"] for point in points))
    with canvas(theme, 5.8, 3.5) as (figure, output):
        ax = figure.subplots()
        styled(ax, theme, percent=True)
        spare = iter(theme.others)
        for stage in stages:
            colour = {"sft": theme.before, "rl": theme.after}.get(stage) or next(spare, theme.faint)
            mine = sorted((p for p in points if p["stage"] == stage), key=lambda p: p["budget"])
            budget, accuracy, low, high = (
                np.array([p[name] for p in mine], float) for name in ("budget", "accuracy", "low", "high")
            )
            ax.fill_between(budget, low, high, color=colour, alpha=0.18, linewidth=0)
            ax.plot(budget, accuracy, color=colour, marker="o", markersize=4, linewidth=2)
            ax.annotate(
                STAGES.get(stage, stage), (budget[-1], accuracy[-1]), xytext=(9, 0), textcoords="offset points",
                va="center", color=colour, fontsize=10, fontweight="bold", annotation_clip=False,
            )  # fmt: skip
        budgets = sorted({p["budget"] for p in points})
        if budgets[0] > 0:
            ax.set_xscale("log", base=2)
        else:
            ax.set_xscale("symlog", base=2, linthresh=max(1, min(b for b in budgets if b > 0)) if budgets[-1] else 1)
        ax.set_xticks(budgets, [f"{b:,}" for b in budgets])
        ax.minorticks_off()
        ax.set_ylim(0, min(1.0, 1.08 * max(p["high"] for p in points)))
        ax.set_xlabel("thinking tokens before the answer is forced")
        ax.set_title("Accuracy on held-out problems", loc="left", fontsize=11, fontweight="bold", color=theme.ink)
    return output.getvalue()


def draw_samples(benchmarks: Mapping[str, Mapping[str, Any]], theme: Theme) -> bytes:
    """The PNG of pass@k and maj@k against k, a panel a benchmark, 95 % intervals shaded.

    `benchmarks`: name -> what measures.measure returns.
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
    """The PNG of pass@1 of a benchmark by label, a panel a label, with 95 % intervals.

    `by`: label -> value -> figure, as measures.measure returns it.
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
    """A figure to draw on; when the block ends, its PNG is in the buffer."""
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


def styled(ax: Any, theme: Theme, percent: bool) -> None:
    """The house style for axes; `percent`: y is a share."""
    ax.set_facecolor(theme.paper)
    ax.grid(axis="y", color=theme.grid, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(length=0)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    if percent:
        ax.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.3g} %")


def _line(ax: Any, steps: np.ndarray, values: np.ndarray, colour: str, label: str, dash: str) -> None:
    """The values; where they are many, faint with their running mean on top."""
    many = len(values) >= SMOOTH_FROM
    if many:
        ax.plot(steps, values, color=colour, alpha=0.28, linewidth=0.9)
        values = smooth(values, 2 * (len(values) // 30) + 3)
    ax.plot(steps, values, color=colour, linewidth=1.9, label=label or None, linestyle=dash,
            marker="o" if len(values) == 1 else None, markersize=4)  # fmt: skip


def _held_out(ax: Any, rows: Rows, results: Mapping[str, Any], theme: Theme) -> None:
    """Held-out accuracy as points with intervals: before RL, during, after."""
    last = max(row["step"] for row in rows if row["stage"] == "rl")
    points = [
        (0, results.get("sft"), theme.before, "before RL, held out"),
        (last, results.get("rl"), theme.after, "after RL, held out"),
    ]
    points += [
        (row["step"], row, theme.faint, "") for row in rows
        if row["stage"] == "evaluate" and 0 < row["step"] < last and row.get("accuracy") is not None
    ]  # fmt: skip
    for step, share, colour, label in points:
        if not share:
            continue  # an unfinished run
        y = share["accuracy"]
        low, high = share.get("low"), share.get("high")
        known = low is not None and high is not None
        ax.errorbar(
            [step], [y], [[y - low], [high - y]] if known else None, fmt="o", color=colour, markersize=4.5,
            capsize=2.5, elinewidth=1.3, label=label or None, zorder=3,
        )  # fmt: skip
