# SPDX-License-Identifier: Apache-2.0
"""The report of a run: report.html, whole in one file, and its figures as PNGs beside it.

prompts -> rollouts -> rewards -> advantages -> update -> checkpoint -> evaluate -> **report**.
It says what RL changed: accuracy before and after with 95 % intervals, accuracy against the budget of thinking, sampled
responses side by side, curves over steps, accuracy by difficulty, and how honest the responses are.
Every text from a model or a config is shown, never interpreted: it all goes through `page.escape`.
Deliberately not here: how the page looks (page.py), marked responses (transcript.py), figures (plots.py), measuring
(evaluator.py, scaling.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t1jax import files, plots, statistics
from t1jax.page import details, escape, page, picture, section, table
from t1jax.transcript import side_by_side

Results = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]

BEFORE = '<span class="before">Before RL</span>'
AFTER = '<span class="after">After RL</span>'


def write_report(workdir: str | Path, results: Results, rows: Rows) -> Path:
    """Writes report.html and the PNGs to `workdir`; returns the path of report.html.

    `results`: what results.json holds; `rows`: metrics.read_rows(workdir). Raises ValueError where `results` lacks the
    accuracy of a stage. Parts of which `results` says nothing (skills, greedy, samples ...) are left out.
    """
    workdir = Path(workdir)
    results = files.json_ready(results)
    for stage in ("sft", "rl"):
        for name in ("accuracy", "low", "high", "n"):
            if results.get(stage, {}).get(name) is None:
                raise ValueError(f"report: results lacks {stage}.{name}; evaluate both stages before the report")
    parts = [
        ("thinking", "Does more thinking help?", _scaling(workdir, results)),
        ("responses", "The same problems, before and after RL", side_by_side(results.get("samples") or [])),
        ("training", "Over the steps of training", _curves(workdir, plots.CURVES, rows, results)),
        ("difficulty", "Accuracy by difficulty", _difficulty(results)),
        ("honesty", "Is the gain honest?", _honesty(results)),
        ("run", "This run", _run(workdir, results, rows)),
    ]
    parts = [part for part in parts if part[2]]
    links = "".join(f'<a href="#{name}">{name.capitalize()}</a>' for name, _, _ in parts)
    body = _headline(results, links) + "".join(section(name, escape(title), text) for name, title, text in parts)
    return files.write_text(workdir / "report.html", page("T1 run report", body + _footer()))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(change: float) -> str:
    return f"{100 * change:+.1f}".replace("-", "−")


def _interval(share: Mapping[str, Any]) -> str:
    return f'<span class="interval">[{100 * share["low"]:.1f}, {100 * share["high"]:.1f}]</span>'


def _triple(share: Mapping[str, Any]) -> tuple[float, float, float]:
    return share["accuracy"], share["low"], share["high"]


def _share(value: Any) -> float | None:
    """A share given as a number or as {accuracy, low, high, n}."""
    return value.get("accuracy") if isinstance(value, Mapping) else value


def _headline(results: Results, links: str) -> str:
    before, after = results["sft"], results["rl"]
    low, high = statistics.difference(_triple(before), _triple(after))
    ends = (
        f'<span class="before">{_percent(before["accuracy"])}</span> to '
        f'<span class="after">{_percent(after["accuracy"])}</span>'
    )
    if low > 0:
        title = f"RL took accuracy from {ends}"
    elif high < 0:
        title = f"RL lowered accuracy, from {ends}"
    else:
        title = f"RL made no clear difference: {ends}"
    bars = [("before", "", "Before RL", before)]
    forbidden = before.get("forbidden_to_give_up")
    note = ""
    if forbidden:
        bars.append(("before", " hollow", "Before RL, not allowed to give up", forbidden))
        less, more = statistics.difference(_triple(forbidden), _triple(after))
        place = "above" if less > 0 else "below" if more < 0 else "not clearly above or below"
        note = f"The middle bar trains nothing: it only forbids the first model to give up. RL ends {place} it."
    bars.append(("after", "", "After RL", after))
    return (
        '<header><div class="kicker">T1 · cold start, then reinforcement learning</div>'
        f"<h1>{title}</h1>"
        '<p class="lead">Share of right answers on problems that training never saw, one response a problem sampled '
        f"at temperature 1, n = {before['n']:,} before and {after['n']:,} after. Brackets and whiskers: 95 % "
        f"intervals. {note}</p>"
        f'<div class="bars">{"".join(_bar(*bar) for bar in bars)}</div>'
        f'<div class="tiles">{_tiles(results, (low, high))}</div><nav>{links}</nav></header>'
    )


def _bar(colour: str, style: str, name: str, share: Mapping[str, Any]) -> str:
    value, low, high = (100 * x for x in _triple(share))
    return (
        f'<div class="bar"><span class="name">{name}</span>'
        f'<span class="rail {colour}"><span class="fill{style}" style="width:{value:.2f}%"></span>'
        f'<span class="range" style="left:{low:.2f}%;width:{high - low:.2f}%"></span></span>'
        f'<span class="figure"><b>{value:.1f} %</b> {_interval(share)}</span></div>'
    )


def _tiles(results: Results, gain: tuple[float, float]) -> str:
    before, after = results["sft"], results["rl"]
    change = after["accuracy"] - before["accuracy"]
    tiles = [("Change in accuracy", f"{_points(change)} points", f"95 %: {_points(gain[0])} to {_points(gain[1])}")]

    def pair(name: str, b: float | None, a: float | None, show: Any, hint: str) -> None:
        if b is not None and a is not None:
            tiles.append((name, f'<span class="before">{show(b)}</span> → <span class="after">{show(a)}</span>', hint))

    def tokens(x: float) -> str:
        return f"{x:,.1f}" if x < 100 else f"{x:,.0f}"

    greedy = results.get("greedy") or {}
    pair("Response length", before.get("response_length"), after.get("response_length"), tokens, "mean tokens")
    pair("Gave up", before.get("gave_up"), after.get("gave_up"), _percent, "stopped without claiming success")
    pair("False claims", before.get("false_claims"), after.get("false_claims"), _percent, "claimed an untrue success")
    pair("Greedy accuracy", _share(greedy.get("sft")), _share(greedy.get("rl")), _percent, "always the likeliest token")
    if results.get("seconds"):
        tiles.append(("Time", _clock(_total_seconds(results["seconds"])), "training and measuring"))
    return "".join(
        f'<div class="tile"><div class="name">{name}</div><div class="value">{value}</div>'
        f'<div class="hint">{hint}</div></div>'
        for name, value, hint in tiles
    )


def _figure(workdir: Path, name: str, light: bytes, dark: bytes, alt: str, caption: str) -> str:
    """A figure for the page; its light version also goes beside it as a PNG."""
    files.write_bytes(workdir / f"{name}.png", light)
    return f"<figure>{picture(light, dark, alt)}<figcaption>{escape(caption)}</figcaption></figure>"


def _scaling(workdir: Path, results: Results) -> str:
    points = results.get("scaling") or []
    if not points:
        return ""
    light, dark = (plots.draw_scaling(points, theme) for theme in (plots.LIGHT, plots.DARK))
    sentences, rows = [], []
    for stage in dict.fromkeys(p["stage"] for p in points):
        mine = sorted((p for p in points if p["stage"] == stage), key=lambda p: p["budget"])
        name = escape(plots.STAGES.get(stage, stage))
        sentences.append(f"<b>{_points(mine[-1]['accuracy'] - mine[0]['accuracy'])} points</b> {name}")
        rows += [[name, f"{p['budget']:,}", f"{_percent(p['accuracy'])} {_interval(p)}", f"{p['n']:,}"] for p in mine]
    budgets = [p["budget"] for p in points]
    caption = "Inference scaling on held-out problems, budgets on a log scale. Shaded: 95 % intervals."
    words = (
        '<p class="lead">Each response is cut after a budget of thinking tokens; the model must then answer from '
        f"what it has. From {min(budgets):,} to {max(budgets):,} tokens accuracy changes by "
        f"{' and '.join(sentences)}.</p>"
    )
    numbers = details("The numbers", table(("Stage", "Budget", "Accuracy", "n"), rows))
    figure = _figure(workdir, "scaling", light, dark, "Accuracy against thinking tokens", caption)
    return f'<div class="split"><div>{words}{numbers}</div>{figure}</div>'


def _curves(workdir: Path, curves: Sequence[plots.Curve], rows: Rows, results: Results) -> str:
    drawn = []
    for curve in curves:
        light, dark = (plots.draw_curve(curve, rows, results, theme) for theme in (plots.LIGHT, plots.DARK))
        if light is not None and dark is not None:
            drawn.append(_figure(workdir, curve.name, light, dark, f"{curve.title} over steps", curve.caption))
    return f'<div class="grid">{"".join(drawn)}</div>' if drawn else ""


def _difficulty(results: Results) -> str:
    shares: dict[Any, dict[str, Mapping[str, Any]]] = {}
    for share in results.get("by_difficulty") or []:
        shares.setdefault(share["difficulty"], {})[share["stage"]] = share
    rows = []
    for difficulty, of in sorted(shares.items()):
        if of.keys() >= {"sft", "rl"}:
            low, high = statistics.difference(_triple(of["sft"]), _triple(of["rl"]))
            change = f"<b>{_points(of['rl']['accuracy'] - of['sft']['accuracy'])}</b>"
            change += f'<span class="interval">[{_points(low)}, {_points(high)}]</span>'
            cells = [f"{_percent(of[s]['accuracy'])}{_interval(of[s])}" for s in ("sft", "rl")]
            rows.append([escape(difficulty), f"{of['rl']['n']:,}", *cells, change])
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
    before, after = skills.get("sft", {}), skills.get("rl", {})
    lines = [(label, before.get(name), after.get(name)) for name, label in SKILLS.items()]
    for name, label in SKILLS.items():
        lines.append((f"{label}, late in long chains", before.get(f"late_{name}"), after.get(f"late_{name}")))
    before, after = results["sft"], results["rl"]
    lines.append(("Responses with a false claim", before.get("false_claims"), after.get("false_claims")))
    lines.append(("Responses that gave up", before.get("gave_up"), after.get("gave_up")))
    orders = (before.get("orders", {}).get("two_pointer"), after.get("orders", {}).get("two_pointer"))
    lines.append(("Responses that close in from both ends (the shorter way)", *orders))
    rows = [
        [label, _percent(b), _percent(a), _points(a - b)] for label, b, a in lines if b is not None and a is not None
    ]
    if not rows:
        return ""
    return (
        '<p class="lead">A model can also learn to say “yes” too soon. So each step of every response sampled at '
        "temperature 1 is checked by itself, and so is what the response claims. A false claim: an attempt called "
        "right that is not. Gave up: the thinking ended with no attempt called right.</p>"
        + table(("", BEFORE, AFTER, "Points"), rows)
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _total_seconds(seconds: Mapping[str, float]) -> float:
    return seconds["total"] if "total" in seconds else sum(seconds.values())


def _run(workdir: Path, results: Results, rows: Rows) -> str:
    parts = []
    if results.get("seconds"):
        times = [[escape(stage), _clock(seconds)] for stage, seconds in results["seconds"].items() if stage != "total"]
        times.append(["<b>all</b>", f"<b>{_clock(_total_seconds(results['seconds']))}</b>"])
        parts.append(details("Time by stage", table(("Stage", "Time"), times)))
    health = _curves(workdir, plots.HEALTH, rows, results)
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


def _footer() -> str:
    return (
        "<footer>The method: Hou et al., “Advancing Language Model Reasoning through Reinforcement Learning and "
        'Inference Scaling”, <a href="https://arxiv.org/abs/2501.11651" rel="noreferrer">arXiv 2501.11651</a>.</footer>'
    )
