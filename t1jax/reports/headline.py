# SPDX-License-Identifier: Apache-2.0
"""The top of a run's report: accuracy before and after RL with its intervals, and the figures that matter most.

Deliberately not here: the sections below it (sections.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t1jax.reports.page import THEME_BUTTON
from t1jax.reports.runs import Results, Run
from t1jax.reports.wording import (
    change,
    clock,
    graded,
    interval,
    measure,
    percent,
    shown,
    tokens,
    total_seconds,
    triple,
)  # fmt: skip


def headline(run: Run, links: str) -> str:
    """The header as HTML; `links`: to the sections."""
    before, after = run.results.get("sft"), run.results.get("rl")
    title, lead, bars, what = "", "", [], measure(after or before)
    if before and after:
        moved = change(before, after)
        ends = f'<span class="before">{shown(before)}</span> to <span class="after">{shown(after)}</span>'
        title = f"RL made no clear difference: {ends}"
        if moved.clear:
            title = f"RL took {what} from {ends}" if moved.value > 0 else f"RL lowered {what}, from {ends}"
        lead = f"n = {before['n']:,} before and {after['n']:,} after"
    elif after:
        title = f'After RL: <span class="after">{shown(after)}</span>'
        lead = f"n = {after['n']:,}, and nothing was measured before RL (<code>eval.before</code> is False)"
    elif before:
        title = f'Not finished: <span class="before">{shown(before)}</span> before RL'
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
        share = "Share of right answers" if what == "accuracy" else "Mean reward, before penalties,"
        lead = (
            f'<p class="lead">{share} on problems that training never saw, one response a problem '
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
    if not graded(share):  # a reward has no scale that a bar could fill
        return (
            f'<div class="bar"><span class="name">{name}</span>'
            f'<span class="figure"><b>{shown(share)}</b> {interval(share)}</span></div>'
        )
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
        value, low, high = gain.texts()
        unit = " points" * gain.of_shares
        tiles.append((f"Change in {measure(after)}", f"{value}{unit}", f"95 %: {low} to {high}"))

    def pair(name: str, b: Any, a: Any, show: Any, hint: str) -> None:
        if b is not None and a is not None:
            tiles.append((name, f'<span class="before">{show(b)}</span> → <span class="after">{show(a)}</span>', hint))

    greedy = results.get("greedy") or {}
    pair("Response length", before.get("response_length"), after.get("response_length"), tokens, "mean tokens")
    if before.get("unscorable") or after.get("unscorable"):
        strict = before.get("strict_accuracy"), after.get("strict_accuracy")
        pair("Strict accuracy", *strict, percent, "responses that cannot be judged as wrong ones")
    if min(before.get("boxed", 1.0), after.get("boxed", 1.0)) < 1:
        lenient = before.get("lenient_accuracy"), after.get("lenient_accuracy")
        pair("Accuracy without boxes", *lenient, percent, "if the last number of a response without a box counts")
    pair("Gave up", before.get("gave_up"), after.get("gave_up"), percent, "stopped without claiming success")
    pair("False claims", before.get("false_claims"), after.get("false_claims"), percent, "claimed an untrue success")
    if graded(after):
        pair("Mean reward", before.get("mean_reward"), after.get("mean_reward"), "{:.3f}".format, "before penalties")
    pair(f"Greedy {measure(after)}", greedy.get("sft"), greedy.get("rl"), _figure, "temperature 0")
    if results.get("seconds"):
        tiles.append(("Time", clock(total_seconds(results["seconds"])), "training and measuring"))
    return "".join(
        f'<div class="tile"><div class="name">{name}</div><div class="value">{value}</div>'
        f'<div class="hint">{hint}</div></div>'
        for name, value, hint in tiles
    )


def _figure(value: Any) -> str:
    """A share given as a number or as {accuracy or mean_reward, low, high, n}."""
    return shown(value) if isinstance(value, Mapping) else percent(value)
