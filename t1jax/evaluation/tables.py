# SPDX-License-Identifier: Apache-2.0
"""The figures of an evaluation for people: tables on the terminal and in Markdown.

... -> evaluate -> **report**. One list of tables for both, so that they cannot differ.
Source: T1's own figures, arXiv 2501.11651, table 1.
Deliberately not here: what is measured (evaluation/figures.py), plots (plots.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from t1jax.evaluation.figures import LENIENT, STRICT

# pass@1 in percent of T1 on GLM-4-9B, Qwen2.5-14B and Qwen2.5-32B; AIME24: mean over 32 samples
T1 = {
    "math500": (65.8, 87.4, 92.4),
    "aime24": (9.2, 30.5, 50.6),
    "omni_math_500": (24.4, 38.6, 49.6),
    "gpqa": (38.1, 48.3, 56.1),
}
SHARES = {"overlong": "overlong", "unscorable": "unscorable", "no answer": "no_answer", "lenient": LENIENT}


@dataclass(frozen=True)
class Sheet:
    """A table of text: the first column names the row, the others are numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def percent(figure: Mapping[str, Any]) -> str:
    """`52.1 [48.0, 56.2]`, in percent."""
    if figure["value"] is None:
        return "-"
    value, low, high = (100 * figure[name] for name in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def plain(figure: Mapping[str, Any]) -> str:
    """`0.521 [0.480, 0.562]`, of a mean reward."""
    if figure["value"] is None:
        return "-"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def sheets(benchmarks: Mapping[str, Mapping[str, Any]]) -> list[Sheet]:
    """The tables of results.json's `benchmarks`: all of them, then for each its k, budgets and labels."""
    found, rows = _overview(benchmarks), list[Sequence[str]]()
    for name, result in benchmarks.items():
        graded = "pass@1" in result
        main, shown = ("pass@1 %", percent) if graded else ("mean reward", plain)
        if result["samples"] > 1 and graded:
            rows = [
                (str(one["k"]), percent(one), percent(most))
                for one, most in zip(result["pass_at_k"], result["majority_at_k"], strict=True)
            ]
            found.append(Sheet(f"{name}: k of {result['samples']} samples", ("k", "pass@k %", "maj@k %"), rows))
        if result["budgets"]:
            rows = [
                (
                    f"{point['budget']:,}",
                    shown(point["pass@1" if graded else "mean_reward"]),
                    *([percent(point["majority"])] if graded else []),
                    _number(point["response_length"]),
                    f"{100 * point['cut']:.1f}",
                    *([f"{100 * point['no_answer']['value']:.1f}"] if graded else []),
                )
                for point in result["budgets"]
            ]
            majority = [f"maj@{result['samples']} %"] if graded else []
            header = ("thinking", main, *majority, "tokens", "cut %", *(["no box %"] if graded else []))
            found.append(Sheet(f"{name}: inference scaling", header, rows))
        for label, values in result["by"].items():
            rows = [(value or "-", str(figure["problems"]), shown(figure)) for value, figure in values.items()]
            found.append(Sheet(f"{name} by {label}", (label, "problems", main), rows))
    return found


def show(tables: Sequence[Sheet], console: Console) -> None:
    """Prints the tables."""
    for sheet in tables:
        table = Table(title=Text(sheet.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for place, name in enumerate(sheet.header):
            table.add_column(Text(name), justify="right" if place else "left")
        for row in sheet.rows:
            table.add_row(*map(Text, row))
        console.print(table)


def markdown(tables: Sequence[Sheet], notes: Sequence[str], title: str = "Evaluation") -> str:
    """The tables in Markdown, after the notes."""
    parts = [f"# {title}", "\n".join(f"* {_escaped(note)}" for note in notes)]
    for sheet in tables:
        lines = [sheet.header, ["---", *["---:"] * (len(sheet.header) - 1)], *sheet.rows]
        parts += [f"## {_escaped(sheet.title)}", "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _overview(benchmarks: Mapping[str, Mapping[str, Any]]) -> list[Sheet]:
    """How right, beside what T1's paper states where it states it; and what the responses are like.

    The strict pass@1 counts unscorable responses as wrong: where the two differ, the verifier could not judge all. The
    lenient one asks for no box: where it is higher, a part of what is missing is form.
    """
    graded = all("pass@1" in result for result in benchmarks.values())
    rewarded = any("mean_reward" in result for result in benchmarks.values())
    known = graded and any(name in T1 for name in benchmarks)
    said = {label: share for label, share in SHARES.items() if all(share in result for result in benchmarks.values())}
    main, form = list[list[str]](), list[list[str]]()
    for name, result in benchmarks.items():
        row = [name, f"{result['problems']}x{result['samples']}"]
        if graded:
            strict = "-" if result[STRICT]["value"] is None else f"{100 * result[STRICT]['value']:.1f}"
            row += [strict, percent(result["pass@1"])]
        row += [plain(result["mean_reward"])] if rewarded else []
        main.append(row + [" / ".join(map(str, T1[name])) if name in T1 else "-"] * known)
        shares = [f"{100 * result[share]['value']:.1f}" for share in said.values()]
        form.append([name, _number(result["response_length"]), *shares])
    header = ["benchmark", "asked", *["strict %", "pass@1 %"] * graded, *["mean reward"] * rewarded]
    return [
        Sheet(
            f"{'Right answers' if graded else 'Mean reward'}, 95 % intervals",
            header + ["T1 9B / 14B / 32B"] * known,
            main,
        ),
        Sheet("Responses", ["benchmark", "tokens", *(f"{name} %" for name in said)], form),
    ]


def _number(figure: Mapping[str, Any]) -> str:
    return f"{figure['value']:,.0f}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
