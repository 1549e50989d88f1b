# SPDX-License-Identifier: Apache-2.0
"""The tables of a study and of all of them, in Markdown.

... -> evaluate -> **report**. Brackets are 95 % intervals over seeds.
Deliberately not here: the numbers (findings.py), plots (plots.py, curves.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t1jax.studies.measures import COLUMNS, NUMBERS, SHAPES
from t1jax.studies.significance import MOST, no_spread

CLAIM = ("difference", "p", "p, Holm", "", "seeds needed")  # columns of a claim
NOTES = """\
Brackets are 95 % intervals over seeds. p is Student's test over seeds, two-sided; "p, Holm" is corrected for testing
all claims in this folder, and decides. "Seeds needed" would tell the effect apart from none with a power of 80 %, given
the spread of these seeds: at p = 0.05, to p = 0.05 / number of claims, which is enough whatever becomes of the other
claims. The difference of a shape is its margin: above 0 the curves have it. A difference that is the same with each
seed has no spread to judge it by: its p is that of the sign test.
"""


def markdown(results: Mapping[str, Any]) -> str:
    """The tables of a study. `results`: what results.json holds."""
    seeds = results["seeds"]
    lines = [f"# {results['title']}", "", f"Seeds {', '.join(map(str, seeds))}.", ""]
    lines += _head("", *(heading for _, heading, _ in COLUMNS))
    lines += [
        _row(label, *(cell(arm[name], kind) for name, _, kind in COLUMNS)) for label, arm in results["arms"].items()
    ]
    lines += ["", *_head("claim", *CLAIM), *(_row(c["claim"], *claim(c)) for c in results["contrasts"])]
    if shapes := [c for c in results["contrasts"] if c["measure"] in SHAPES]:
        lines += ["", *_head("margin, seed by seed", *(f"seed {seed}" for seed in seeds), "holds in")]
        for c in shapes:
            held = sum(value > 0 for value in c["values"])
            lines.append(_row(c["claim"], *(f"{100 * v:+.1f}" for v in c["values"]), f"{held} of {len(seeds)}"))
    lines += _thinking(results["thinking"]) if "thinking" in results else []
    lines += _steps(results["steps"], seeds) if "steps" in results else []
    return "\n".join([*lines, "", NOTES])


def summary(studies: Sequence[Mapping[str, Any]]) -> str:
    """The claims of all studies, with what became of each. `studies`: what each results.json holds."""
    lines = _head("study", "claim", *CLAIM, "seeds")
    for results in studies:
        seeds = str(len(results["seeds"]))
        lines += [_row(results["study"], c["claim"], *claim(c), seeds) for c in results["contrasts"]]
    return "\n".join([*lines, "", NOTES])


def claim(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of a claim after findings.conclude, one for each of CLAIM."""
    return difference(found), _p(found["p"]), _p(found["p_holm"]), found["verdict"], _needed(found)


def difference(found: Mapping[str, Any]) -> str:
    """`+9.3 [+3.4, +15.1] points`."""
    name = found["measure"]
    if name in NUMBERS:
        return f"{cell(found, 'number', '+')} {NUMBERS[name]}"
    return f"{cell(found, 'percent', '+').replace(' %', '')} points"


def cell(found: Mapping[str, Any], kind: str, sign: str = "") -> str:
    """`12.3 % [10.1, 14.5]`."""
    scale, digits, unit = (100, 1, " %") if kind == "percent" else (1, 2 if abs(found["mean"]) < 10 else 1, "")
    text = f"{scale * found['mean']:{sign}.{digits}f}{unit}"
    if found["low"] is None:
        return text
    return f"{text} [{scale * found['low']:{sign}.{digits}f}, {scale * found['high']:{sign}.{digits}f}]"


def _p(value: float | None) -> str:
    """`0.012`; nothing where there is no test."""
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _needed(found: Mapping[str, Any]) -> str:
    """`6 to 9 for the +7.6 points of the paper`."""
    if found["p"] is None or not found["effect"]:
        return ""
    effect = difference({"measure": found["measure"], "mean": found["effect"], "low": None})
    if no_spread(found["values"]):
        return "not known: the same with each seed"
    counts = [
        f"more than {MOST:,}" if (count := found[key]) is None else f"{count:,}"
        for key in ("seeds_needed", "seeds_needed_holm")
    ]
    needed = " to ".join(dict.fromkeys(counts))
    return f"{needed} for {f'the {effect} seen' if found['paper'] is None else f'the {effect} of the paper'}"


def _thinking(marks: Sequence[Mapping[str, Any]]) -> list[str]:
    shares = [f"{100 * mark['step'] / marks[-1]['step']:.0f} % of RL" for mark in marks]
    lines = ["", *_head("thinking tokens: accuracy", *shares)]
    for row in zip(*(mark["scaling"] for mark in marks), strict=True):
        lines.append(_row(str(row[0]["budget"]), *(cell(p, "percent") for p in row)))
    lines += ["", *_head("voters: accuracy (tokens of all)", *shares)]
    for row in zip(*(mark["votes"] for mark in marks), strict=True):
        lines.append(_row(str(row[0]["k"]), *(f"{cell(p, 'percent')} ({p['tokens']:.0f})" for p in row)))
    return lines


def _steps(steps: Mapping[str, Any], seeds: Sequence[int]) -> list[str]:
    lines = ["", *_head("steps of RL: accuracy", *steps["curves"])]
    for at, row in zip(steps["at"], zip(*steps["curves"].values(), strict=True), strict=True):
        lines.append(_row(str(at), *(cell(point, "percent") for point in row)))
    lines += ["", *_head("change places after step", *(f"seed {seed}" for seed in seeds))]
    for found in steps["crossings"]:
        cells = (", ".join(f"{at:.1f}" for at in crossed) or "never" for crossed in found["values"])
        lines.append(_row(" and ".join(found["arms"]), *cells))
    return lines


def _head(*headings: str) -> list[str]:
    return [_row(*headings), "|---" * len(headings) + "|"]


def _row(*cells: str) -> str:
    return "".join(f"| {text} " if text else "| " for text in cells) + "|"
