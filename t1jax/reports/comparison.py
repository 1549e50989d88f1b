# SPDX-License-Identifier: Apache-2.0
"""Several runs on one page: a table with differences to the first run, the knobs that differ, and overlaid curves.

Differences come with 95 % intervals for independent samples, which are conservative for runs that answered the same
problems. The page warns where accuracies are not comparable because knobs differ (COMPARABLE).
Deliberately not here: one run (run_page.py), charts (curves.py, charts.py), command line (report.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from t1jax.host.workdir import changes
from t1jax.reports import curves
from t1jax.reports.cautions import cautions
from t1jax.reports.charts import SCRIPTS, STYLES, grid
from t1jax.reports.page import THEME_BUTTON, details, escape, footer, page, section, table
from t1jax.reports.runs import Run
from t1jax.reports.wording import (
    amount,
    change,
    clock,
    graded,
    interval,
    measure,
    percent,
    shown,
    signed,
    tokens,
    total_seconds,
)  # fmt: skip

ABSENT = '<span class="tag">–</span>'
PROBLEMS = ("task.", "data.", "reward.")  # what is asked and judged: with others, an accuracy is of something else
COMPARABLE = (*PROBLEMS, "eval.num_problems", "rl.max_new_tokens", "scaling.")  # other problems, other measure
INCIDENTAL = (  # where and how it ran
    *("checkpoint.", "compilation_cache_mib", "mesh.", "metrics.", "verifier.", "tensorboard_mib", "rl.profile"),
)


def render(runs: Sequence[Run]) -> str:
    """The page that compares two or more runs with the first of them."""
    knobs = differing(runs)
    parts = [
        ("runs", "The runs", _table(runs)),
        ("knobs", "Knobs that differ", _knobs(runs, knobs)),
        ("training", "Over the steps of RL", _toggles(runs) + grid(curves.compared(runs))),
        ("thinking", "Does more thinking help?", _tall(grid(curves.scaling_compared(runs)))),
        ("careful", "To be careful with", _cautions(runs)),
    ]
    parts = [part for part in parts if part[2]]
    links = "".join(f'<a href="#{name}">{name.capitalize()}</a>' for name, _, _ in parts)
    body = _headline(runs, knobs, links) + "".join(section(name, title, text) for name, title, text in parts)
    return page("T1 runs compared", body + footer(), scripts=SCRIPTS, styles=(*STYLES, "comparison.css"))


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """knob -> its value in each run, for knobs that are not the same in all; None where a run has no such knob."""
    configs = [run.results.get("config") or {} for run in runs]
    names: dict[str, None] = {}
    for config in configs[1:]:
        names |= dict.fromkeys(changes(configs[0], config))
    flat = [_flat(config) for config in configs]
    return {name: [config.get(name) for config in flat] for name in sorted(names)}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def _headline(runs: Sequence[Run], knobs: Mapping[str, Any], links: str) -> str:
    whole = [run for run in runs if run.results.get("rl")]
    notes = []
    if len(whole) < len(runs):
        open_ones = ", ".join(escape(run.name) for run in runs if not run.results.get("rl"))
        notes.append(f"Not finished: {open_ones}. The page shows what is known so far.")
    others = [name for name in knobs if _is(name, COMPARABLE)]
    asked_others = any(_is(name, PROBLEMS) for name in knobs)
    if others:
        listed = ", ".join(f"<code>{escape(name)}</code>" for name in others)
        notes.append(f"They were not measured in the same way: {listed}. Differences in accuracy may be due to that.")
    warned = "".join(f"<li>{note}</li>" for note in notes)
    return (
        f'<header>{THEME_BUTTON}<div class="kicker">T1 · cold start, then reinforcement learning</div>'
        f"<h1>{len(runs)} runs compared</h1>"
        f'<p class="lead">{_measured(whole)} on held-out problems, one response a problem sampled at '
        f"temperature 1. Brackets: 95 % intervals. {'' if asked_others else _outcome(whole)}</p>"
        + (f'<ul class="warnings">{warned}</ul>' if warned else "")
        + f"<nav>{links}</nav></header>"
    )


def _is(knob: str, kinds: Sequence[str]) -> bool:
    """Whether a knob is one of `kinds`, or in a section of them."""
    return any(knob == kind or (kind[-1] == "." and knob.startswith(kind)) for kind in kinds)


def _measured(whole: Sequence[Run]) -> str:
    """What runs are judged by, in words."""
    words = {"accuracy": "Accuracy: share of right answers", "mean reward": "Mean reward, before penalties,"}
    return " or ".join(dict.fromkeys(words[measure(run.results["rl"])] for run in whole)) or words["accuracy"]


def _outcome(whole: Sequence[Run]) -> str:
    """Which run is ahead after RL, as far as the intervals allow; nothing where they are judged by different things."""
    what = {measure(run.results["rl"]) for run in whole}
    if len(whole) < 2 or len(what) > 1:
        return ""
    best, second, *_ = sorted(whole, key=lambda run: -amount(run.results["rl"]))
    moved = change(second.results["rl"], best.results["rl"])
    name = f"<b>{escape(best.name)}</b> has the highest {what.pop()} after RL, {shown(best.results['rl'])}"
    if moved.clear:
        return f"{name}, clearly above the next, {escape(second.name)}: {moved}."
    return f"{name}, but not clearly above the next, {escape(second.name)}: {moved}."


def _table(runs: Sequence[Run]) -> str:
    first = runs[0].results.get("rl")
    rows = []
    for i, run in enumerate(runs):
        before, after = run.results.get("sft"), run.results.get("rl")
        greedy = (run.results.get("greedy") or {}).get("rl")
        seconds = run.results.get("seconds")
        away = ABSENT
        if first and after and graded(first) == graded(after):
            away = "first" if i == 0 else signed(change(first, after))
        steps = max((row["step"] for row in run.rows if row["stage"] == "rl"), default=0)
        rows.append([
            _name(run, i), f"{steps:,}", _share(before), _share(after),
            signed(change(before, after)) if before and after else ABSENT, away, _share(greedy),
            _value(after, "response_length", tokens), _value(after, "gave_up", percent),
            _value(after, "false_claims", percent), clock(total_seconds(seconds)) if seconds else ABSENT,
        ])  # fmt: skip
    headings = (
        "Run", "RL steps", "Before RL", "After RL", "By RL", "Against first", "Greedy", "Tokens", "Gave up",
        "False claims", "Time",
    )  # fmt: skip
    kept = [
        i for i in range(len(headings)) if i < 2 or any(row[i] != ABSENT for row in rows)
    ]  # columns that no run has stay out
    places = [
        f"<tr><td>{_name(run, i)}</td><td><code>{escape(run.workdir)}</code></td></tr>" for i, run in enumerate(runs)
    ]
    shown = table([headings[i] for i in kept], [[row[i] for i in kept] for row in rows])
    return f'<div class="dense">{shown}</div>' + details(
        "Where they are", f'<div class="scroll"><table class="left">{"".join(places)}</table></div>'
    )


def _name(run: Run, i: int) -> str:
    return (
        f'<span class="key {curves.colour_classes(i)}" title="{escape(run.workdir)}"><i class="swatch"></i>'
        f"{escape(run.name)}</span>"
    )


def _share(share: Any) -> str:
    return f"{shown(share)}{interval(share)}" if share else ABSENT


def _value(summary: Mapping[str, Any] | None, name: str, show: Any) -> str:
    value = (summary or {}).get(name)
    return ABSENT if value is None else show(value)


def _knobs(runs: Sequence[Run], knobs: Mapping[str, Sequence[Any]]) -> str:
    if not knobs:
        return '<p class="lead">None: the configs are the same.</p>'
    shown = []
    for incidental in (False, True):
        rows = [
            [f"<code>{escape(name)}</code>", *(ABSENT if v is None else escape(_shown(v)) for v in values)]
            for name, values in knobs.items()
            if _is(name, INCIDENTAL) == incidental
        ]
        if rows:
            shown.append(table(["Knob", *(_name(run, i) for i, run in enumerate(runs))], rows))
            if incidental:
                shown[-1] = details(f"{len(rows)} of where and how they ran", shown[-1])
    return "".join(shown)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.10g}"  # 0.85, not 0.8500000000000001
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if 0 < len(text) <= 60 else f"{text[:57]}..." if text else '""'


def _toggles(runs: Sequence[Run]) -> str:
    buttons = "".join(
        f'<button class="toggle key {curves.colour_classes(i)}" type="button" data-run="r{i}" aria-pressed="true" '
        f'disabled><i class="swatch"></i>{escape(run.name)}</button>'
        for i, run in enumerate(runs)
    )
    return (
        '<p class="lead">Point at a step, with the pointer, a finger or the arrow keys: all charts show it. '
        f'The buttons show and hide runs.</p><div class="toggles">{buttons}</div>'
    )


def _tall(charts: str) -> str:
    return f'<div class="tall">{charts}</div>' if charts else ""


def _cautions(runs: Sequence[Run]) -> str:
    found = [f"<li>{escape(run.name)}: {text}</li>" for run in runs for text in cautions(run)]
    return f'<ul class="warnings">{"".join(found)}</ul>' if found else ""
