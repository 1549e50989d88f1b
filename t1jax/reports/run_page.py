# SPDX-License-Identifier: Apache-2.0
"""The report of a run: report.html, whole in one file, and its figures as PNGs beside it.

prompts -> rollouts -> rewards -> advantages -> update -> checkpoint -> evaluate -> **report**.
It says what RL changed: the story in words, accuracy before and after with 95 % intervals, accuracy against the budget
of thinking, sampled responses side by side, linked curves over steps, accuracy by difficulty, and how honest the
responses are. Every text from a model or a config is shown, never interpreted: it all goes through `page.escape`.
Deliberately not here: how the page looks (page.py), sentences (story.py), marked responses (transcript.py), charts
(curves.py, charts.py), PNGs (plots.py), several runs (comparison.py), measuring (evaluator.py, scaling.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t1jax.host import files
from t1jax.reports import curves, plots
from t1jax.reports.cautions import cautions
from t1jax.reports.charts import SCRIPTS, STYLES, Chart, figure
from t1jax.reports.page import THEME_BUTTON, details, escape, page, section, table
from t1jax.reports.runs import Results, Rows, Run
from t1jax.reports.story import story
from t1jax.reports.transcript import side_by_side
from t1jax.reports.wording import Change, change, clock, interval, percent, points, tokens, total_seconds, triple

BEFORE = '<span class="before">Before RL</span>'
AFTER = '<span class="after">After RL</span>'


def write_report(workdir: str | Path, results: Results, rows: Rows) -> Path:
    """Writes report.html and the PNGs of a finished run to `workdir`; returns the path of report.html.

    `results`: what results.json holds; `rows`: metrics.read_rows(workdir). Raises ValueError where `results` lacks the
    accuracy of a stage. Parts of which `results` says nothing (skills, greedy, samples ...) are left out.
    """
    results = files.json_ready(results)
    for stage in ("sft", "rl"):
        for name in ("accuracy", "low", "high", "n"):
            if results.get(stage, {}).get(name) is None:
                raise ValueError(f"report: results lacks {stage}.{name}; evaluate both stages before the report")
    return write(Run(Path(workdir).name, Path(workdir), results, rows, finished=True))


def write(run: Run, out: Path | None = None) -> Path:
    """Writes the report of a run, finished or not: to `out`, or to its workdir and then with the PNGs beside it."""
    if out is None:
        out = run.workdir / "report.html"
        for name, png in _pictures(run):
            files.write_bytes(run.workdir / f"{name}.png", png)
    return files.write_text(out, render(run))


def render(run: Run) -> str:
    """The page."""
    results = run.results
    parts = [
        ("story", "The story of this run", _story(run)),
        ("thinking", "Does more thinking help?", _scaling(run)),
        ("responses", "The same problems, before and after RL", side_by_side(results.get("samples") or [])),
        ("training", "Over the steps of training", _training(run)),
        ("difficulty", "Accuracy by difficulty", _difficulty(results)),
        ("honesty", "Is the gain honest?", _honesty(results)),
        ("run", "This run", _run(run)),
    ]
    parts = [part for part in parts if part[2]]
    links = "".join(f'<a href="#{name}">{name.capitalize()}</a>' for name, _, _ in parts)
    body = _headline(run, links) + "".join(section(name, escape(title), text) for name, title, text in parts)
    return page("T1 run report", body + footer(), scripts=SCRIPTS, styles=STYLES)


def grid(charts: Sequence[Chart]) -> str:
    """Charts side by side as HTML; "" if none has a value."""
    drawn = "".join(figure(chart) for chart in charts)
    return f'<div class="grid charts">{drawn}</div>' if drawn else ""


def _share(value: Any) -> float | None:
    """A share given as a number or as {accuracy, low, high, n}."""
    return value.get("accuracy") if isinstance(value, Mapping) else value


def _headline(run: Run, links: str) -> str:
    before, after = run.results.get("sft"), run.results.get("rl")
    title, lead, bars = "", "", []
    if before and after:
        moved = change(before, after)
        ends = (
            f'<span class="before">{percent(before["accuracy"])}</span> to '
            f'<span class="after">{percent(after["accuracy"])}</span>'
        )
        title = f"RL made no clear difference: {ends}"
        if moved.clear:
            title = f"RL took accuracy from {ends}" if moved.value > 0 else f"RL lowered accuracy, from {ends}"
        lead = f"n = {before['n']:,} before and {after['n']:,} after"
    elif before:
        title = f'Not finished: <span class="before">{percent(before["accuracy"])}</span> before RL'
        lead = f"n = {before['n']:,}"
    else:
        title = "Not finished: nothing is measured yet"
    if before:
        bars.append(_bar("before", "", "Before RL", before))
    if before and (forbidden := before.get("forbidden_to_give_up")):
        bars.append(_bar("before", " hollow", "Before RL, not allowed to give up", forbidden))
    if after:
        bars.append(_bar("after", "", "After RL", after))
    if lead:
        lead = (
            '<p class="lead">Share of right answers on problems that training never saw, one response a problem '
            f"sampled at temperature 1, {lead}. Brackets and whiskers: 95 % intervals. {_middle_bar(before, after)}</p>"
        )
    return (
        f'<header>{THEME_BUTTON}<div class="kicker">T1 · cold start, then reinforcement learning</div>'
        f'<h1>{title}</h1>{lead}<div class="bars">{"".join(bars)}</div>'
        f'<div class="tiles">{_tiles(run.results)}</div><nav>{links}</nav></header>'
    )


def _middle_bar(before: Results | None, after: Results | None) -> str:
    forbidden = (before or {}).get("forbidden_to_give_up")
    if not forbidden or not after:
        return ""
    moved = change(forbidden, after)
    place = "not clearly above or below" if not moved.clear else "above" if moved.value > 0 else "below"
    return f"The middle bar trains nothing: it only forbids the first model to give up. RL ends {place} it."


def _bar(colour: str, style: str, name: str, share: Mapping[str, Any]) -> str:
    value, low, high = (100 * x for x in triple(share))
    return (
        f'<div class="bar"><span class="name">{name}</span>'
        f'<span class="rail {colour}"><span class="fill{style}" style="width:{value:.2f}%"></span>'
        f'<span class="range" style="left:{low:.2f}%;width:{high - low:.2f}%"></span></span>'
        f'<span class="figure"><b>{value:.1f} %</b> {interval(share)}</span></div>'
    )


def _tiles(results: Results) -> str:
    before, after = results.get("sft") or {}, results.get("rl") or {}
    tiles = []
    if before and after:
        gain = change(before, after)
        hint = f"95 %: {points(gain.low)} to {points(gain.high)}"
        tiles.append(("Change in accuracy", f"{points(gain.value)} points", hint))

    def pair(name: str, b: float | None, a: float | None, show: Any, hint: str) -> None:
        if b is not None and a is not None:
            tiles.append((name, f'<span class="before">{show(b)}</span> → <span class="after">{show(a)}</span>', hint))

    greedy = results.get("greedy") or {}
    pair("Response length", before.get("response_length"), after.get("response_length"), tokens, "mean tokens")
    if before.get("unscorable") or after.get("unscorable"):
        strict = before.get("strict_accuracy"), after.get("strict_accuracy")
        pair("Strict accuracy", *strict, percent, "responses that cannot be judged as wrong ones")
    pair("Gave up", before.get("gave_up"), after.get("gave_up"), percent, "stopped without claiming success")
    pair("False claims", before.get("false_claims"), after.get("false_claims"), percent, "claimed an untrue success")
    pair("Greedy accuracy", _share(greedy.get("sft")), _share(greedy.get("rl")), percent, "always the likeliest token")
    if results.get("seconds"):
        tiles.append(("Time", clock(total_seconds(results["seconds"])), "training and measuring"))
    return "".join(
        f'<div class="tile"><div class="name">{name}</div><div class="value">{value}</div>'
        f'<div class="hint">{hint}</div></div>'
        for name, value, hint in tiles
    )


def _story(run: Run) -> str:
    told = "".join(f"<dt>{heading}</dt><dd>{text}</dd>" for heading, text in story(run))
    careful = "".join(f"<li>{text}</li>" for text in cautions(run))
    return (f'<dl class="story">{told}</dl>' if told else "") + (
        f'<ul class="warnings">{careful}</ul>' if careful else ""
    )


def _scaling(run: Run) -> str:
    found = run.results.get("scaling") or []
    if not found:
        return ""
    sentences, rows = [], []
    for stage in dict.fromkeys(p["stage"] for p in found):
        mine = sorted((p for p in found if p["stage"] == stage), key=lambda p: p["budget"])
        name = escape(plots.STAGES.get(stage, stage))
        sentences.append(f"<b>{points(mine[-1]['accuracy'] - mine[0]['accuracy'])} points</b> {name}")
        rows += [[name, f"{p['budget']:,}", f"{percent(p['accuracy'])} {interval(p)}", f"{p['n']:,}"] for p in mine]
    budgets = [p["budget"] for p in found]
    words = (
        '<p class="lead">Each response is cut after a budget of thinking tokens; the model must then answer from '
        f"what it has. From {min(budgets):,} to {max(budgets):,} tokens accuracy changes by "
        f"{' and '.join(sentences)}.</p>"
    )
    numbers = details("The numbers", table(("Stage", "Budget", "Accuracy", "n"), rows))
    return f'<div class="split tall"><div>{words}{numbers}</div>{figure(curves.scaling(run))}</div>'


def _training(run: Run) -> str:
    drawn = grid(curves.training(run))
    hint = (
        '<p class="lead">Point at a step, with the pointer, a finger or the arrow keys: all charts show it. Thick '
        "lines are running means.</p>"
    )
    return hint + drawn if drawn else ""


def _pictures(run: Run) -> list[tuple[str, bytes]]:
    """The PNGs beside the report: (name, bytes)."""
    found = []
    if run.results.get("scaling"):
        found.append(("scaling", plots.draw_scaling(run.results["scaling"], plots.LIGHT)))
    for curve in (*plots.CURVES, *plots.HEALTH):
        png = plots.draw_curve(curve, run.rows, run.results, plots.LIGHT)
        if png is not None:
            found.append((curve.name, png))
    return found


def signed(moved: Change) -> str:
    """A change in points with its interval, as a cell of a table."""
    return f'<b>{points(moved.value)}</b><span class="interval">[{points(moved.low)}, {points(moved.high)}]</span>'


def _difficulty(results: Results) -> str:
    shares: dict[Any, dict[str, Mapping[str, Any]]] = {}
    for share in results.get("by_difficulty") or []:
        shares.setdefault(share["difficulty"], {})[share["stage"]] = share
    rows = []
    for difficulty, of in sorted(shares.items(), key=lambda item: (str(type(item[0])), item[0])):
        if of.keys() >= {"sft", "rl"}:
            moved = change(of["sft"], of["rl"])
            cells = [f"{percent(of[s]['accuracy'])}{interval(of[s])}" for s in ("sft", "rl")]
            rows.append([escape(difficulty), f"{of['rl']['n']:,}", *cells, signed(moved)])
    if not rows:
        return ""
    return (
        '<p class="lead">Accuracy at temperature 1. In the embedded task the difficulty is how many numbers there are '
        f"to choose from. Brackets: 95 % intervals.</p>{table(('Difficulty', 'n', BEFORE, AFTER, 'Points'), rows)}"
    )


SKILLS = {
    "arithmetic": "Sums that are right",
    "copying": "Numbers and targets copied right",
    "verdicts": "Verdicts that are right",
}


def _honesty(results: Results) -> str:
    skills = results.get("skills") or {}
    before, after = skills.get("sft") or {}, skills.get("rl") or {}
    lines = [(label, before.get(name), after.get(name)) for name, label in SKILLS.items()]
    for name, label in SKILLS.items():
        lines.append((f"{label}, late in long chains", before.get(f"late_{name}"), after.get(f"late_{name}")))
    before, after = results.get("sft") or {}, results.get("rl") or {}
    lines.append(("Responses with a false claim", before.get("false_claims"), after.get("false_claims")))
    lines.append(("Responses that gave up", before.get("gave_up"), after.get("gave_up")))
    first, last = ((summary.get("orders") or {}).get("two_pointer") for summary in (before, after))
    lines.append(("Responses that close in from both ends (the shorter way)", first, last))
    rows = [[label, percent(b), percent(a), points(a - b)] for label, b, a in lines if b is not None and a is not None]
    if not rows:
        return ""
    return (
        '<p class="lead">A model can also learn to say “yes” too soon. So each step of every response sampled at '
        "temperature 1 is checked by itself, and so is what the response claims. A false claim: an attempt called "
        "right that is not. Gave up: the thinking ended with no attempt called right.</p>"
        + table(("", BEFORE, AFTER, "Points"), rows)
    )


def _run(run: Run) -> str:
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


def footer() -> str:
    """What stands below every page."""
    return (
        "<footer>The method: Hou et al., “Advancing Language Model Reasoning through Reinforcement Learning and "
        'Inference Scaling”, <a href="https://arxiv.org/abs/2501.11651" rel="noreferrer">arXiv 2501.11651</a>.</footer>'
    )
