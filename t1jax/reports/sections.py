# SPDX-License-Identifier: Apache-2.0
"""The sections of a run's report as HTML, each "" where the run has no data for it.

Deliberately not here: the top of the page (headline.py), sentences (story.py), charts (curves.py, charts.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from t1jax.reports import columns, curves
from t1jax.reports.cautions import cautions
from t1jax.reports.charts import figure, grid
from t1jax.reports.page import details, escape, table
from t1jax.reports.runs import Results, Run
from t1jax.reports.story import story
from t1jax.reports.wording import change, clock, interval, measure, percent, points, shown, signed, total_seconds

BEFORE = '<span class="before">Before RL</span>'
AFTER = '<span class="after">After RL</span>'
HEADS = {"sft": BEFORE, "rl": AFTER}
SKILLS = {
    "arithmetic": "Sums that are right",
    "copying": "Numbers and targets copied right",
    "verdicts": "Verdicts that are right",
}


def in_words(run: Run) -> str:
    """What happened, in words, and what to be careful with."""
    sentences = "".join(f"<dt>{heading}</dt><dd>{text}</dd>" for heading, text in story(run))
    careful = "".join(f"<li>{text}</li>" for text in cautions(run))
    return (f'<dl class="story">{sentences}</dl>' if sentences else "") + (
        f'<ul class="warnings">{careful}</ul>' if careful else ""
    )


def scaling(run: Run) -> str:
    """Accuracy against the budget of thinking tokens."""
    found = run.results.get("scaling") or []
    if not found:
        return ""
    sentences, rows = [], []
    for stage in dict.fromkeys(p["stage"] for p in found):
        mine = sorted((p for p in found if p["stage"] == stage), key=lambda p: p["budget"])
        name = escape(columns.STAGE_NAMES.get(stage, stage))
        moved = change(mine[0], mine[-1])
        sentences.append(f"<b>{moved.texts()[0]}{' points' * moved.of_shares}</b> {name}")
        rows += [[name, f"{p['budget']:,}", f"{shown(p)} {interval(p)}", f"{p['n']:,}"] for p in mine]
    budgets = [p["budget"] for p in found]
    words = (
        '<p class="lead">Each response is cut after a budget of thinking tokens; the model must then answer from '
        f"what it has. From {min(budgets):,} to {max(budgets):,} tokens {measure(found[0])} changes by "
        f"{' and '.join(sentences)}.</p>"
    )
    numbers = details("The numbers", table(("Stage", "Budget", measure(found[0]).capitalize(), "n"), rows))
    return f'<div class="split tall"><div>{words}{numbers}</div>{figure(curves.scaling(run))}</div>'


def training(run: Run) -> str:
    """Curves over the steps of RL."""
    drawn = grid(curves.training(run))
    hint = (
        '<p class="lead">Point at a step, with the pointer, a finger or the arrow keys: all charts show it. Thick '
        "lines are running means.</p>"
    )
    return hint + drawn if drawn else ""


def difficulty(results: Results) -> str:
    """Accuracy by difficulty, before and after RL, or where only one of these was measured, then."""
    shares: dict[Any, dict[str, Mapping[str, Any]]] = {}
    for share in results.get("by_difficulty") or []:
        shares.setdefault(share["difficulty"], {})[share["stage"]] = share
    stages = [stage for stage in HEADS if any(stage in of for of in shares.values())]
    rows = []
    for difficulty, of in sorted(shares.items(), key=lambda item: (str(type(item[0])), item[0])):
        if of.keys() >= set(stages):
            cells = [f"{shown(of[stage])}{interval(of[stage])}" for stage in stages]
            moved = [signed(change(of["sft"], of["rl"]))] if len(stages) == 2 else []
            rows.append([escape(difficulty), f"{of[stages[-1]]['n']:,}", *cells, *moved])
    if not rows:
        return ""
    what = measure(next(iter(next(iter(shares.values())).values())))
    last = ["Points" if what == "accuracy" else "Change"] if len(stages) == 2 else []
    heads = ("Difficulty", "n", *(HEADS[stage] for stage in stages), *last)
    return (
        f'<p class="lead">{what.capitalize()} at temperature 1. In the embedded task the difficulty is how many '
        f"numbers there are to choose from. Brackets: 95 % intervals.</p>{table(heads, rows)}"
    )


def honesty(results: Results) -> str:
    """Whether steps and claims of responses are true, before and after RL; or of one of these, as `difficulty`."""
    skills = results.get("skills") or {}
    before, after = skills.get("sft") or {}, skills.get("rl") or {}
    lines = [(label, before.get(name), after.get(name)) for name, label in SKILLS.items()]
    for name, label in SKILLS.items():
        lines.append((f"{label}, late in long chains", before.get(f"late_{name}"), after.get(f"late_{name}")))
    before, after = results.get("sft") or {}, results.get("rl") or {}
    lines.append(("Responses with a false claim", before.get("false_claims"), after.get("false_claims")))
    lines.append(("Responses that gave up", before.get("gave_up"), after.get("gave_up")))
    first, last = ((summary.get("orders") or {}).get("short") for summary in (before, after))
    lines.append(("Responses that search in the shorter order", first, last))
    heads: tuple[str, ...] = (BEFORE, AFTER, "Points")
    both = [(label, b, a) for label, b, a in lines if b is not None and a is not None]
    rows = [[label, percent(b), percent(a), points(a - b)] for label, b, a in both]
    if not before or not after:  # one of them was not measured
        heads = (AFTER,) if after else (BEFORE,)
        rows = [[label, percent(share)] for label, b, a in lines if (share := a if after else b) is not None]
    if not rows:
        return ""
    return (
        '<p class="lead">A model can also learn to say “yes” too soon. So each step of every response sampled at '
        "temperature 1 is checked by itself, and so is what the response claims. A false claim: an attempt called "
        "right that is not. Gave up: the thinking ended with no attempt called right.</p>" + table(("", *heads), rows)
    )


def facts(run: Run) -> str:
    """Time, further curves, versions and config."""
    results = run.results
    parts = []
    if results.get("seconds"):
        times = [
            [escape(stage), clock(seconds or 0.0)] for stage, seconds in results["seconds"].items() if stage != "total"
        ]
        times.append(["<b>all</b>", f"<b>{clock(total_seconds(results['seconds']))}</b>"])
        parts.append(details("Time by stage", table(("Stage", "Time"), times)))
    health = grid(curves.health(run))
    if health:
        parts.append(details("More curves: loss, gradient norm, sampler against learner", health))
    if results.get("versions"):
        versions = [[escape(name), escape(version)] for name, version in results["versions"].items()]
        parts.append(details("Versions", table(("Package", "Version"), versions)))
    if results.get("config"):
        text = json.dumps(results["config"], indent=2, ensure_ascii=False)
        parts.append(details("Config", f"<pre>{escape(text)}</pre>"))
    files_note = (
        '<p class="lead">Beside this page: <code>results.json</code> (all numbers), <code>metrics.jsonl</code> (one '
        "row a step), the figures as PNG, and <code>tensorboard/</code>.</p>"
    )
    return files_note + "".join(parts)
