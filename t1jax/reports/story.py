# SPDX-License-Identifier: Apache-2.0
"""The story of a run in a few sentences, each only where its numbers are there and bear it.

A change is called a gain or a loss only if its 95 % interval leaves out zero. What the run did not measure is not
mentioned: a run on files knows no false claims, one without a cold start no cold start.
Deliberately not here: figures and tables (run_page.py), what a reader should be careful with (cautions.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t1jax.reports.page import escape
from t1jax.reports.runs import Run, held_out
from t1jax.reports.wording import (
    Change,
    Share,
    change,
    clock,
    interval,
    knob,
    of_responses,
    percent,
    tokens,
    total_seconds,
)

STAGE_WORDS = {
    "sft": "the cold start", "rl": "RL", "evaluate": "looking at held-out problems during RL",
    "measure_sft": "measuring before RL", "measure_rl": "measuring after RL",
}  # fmt: skip


def story(run: Run) -> list[tuple[str, str]]:
    """(heading, HTML) of each part of the story that there is something to say of."""
    parts = [
        ("The run", _trained(run)),
        ("Accuracy", _accuracy(run)),
        ("Behaviour", _behaviour(run)),
        ("Thinking", _thinking(run)),
        ("Time", _time(run)),
    ]
    return [(heading, " ".join(sentences)) for heading, sentences in parts if sentences]


def parameters(model: Mapping[str, Any]) -> int | None:
    """How many parameters a model with these knobs has; None if one of them is missing."""
    names = ("vocab_size", "num_layers", "hidden_size", "num_heads", "num_kv_heads", "head_dim", "mlp_size")
    sizes = [model.get(name) for name in names]
    if not all(isinstance(size, int) for size in sizes):
        return None
    V, L, D, N, K, H, F = (int(size or 0) for size in sizes)
    layer = 2 * D * N * H + 2 * D * K * H + 3 * D * F + 2 * D
    layer += (N + 2 * K) * H if model.get("qkv_bias") else 0
    layer += 2 * H if model.get("qk_norm") else 0
    return L * layer + D + V * D * (1 if model.get("tie_embeddings") else 2)


def _count(number: int) -> str:
    for size, word in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,}"


def _trained(run: Run) -> list[str]:
    config = run.results.get("config")
    done = {stage: max((r["step"] for r in run.rows if r["stage"] == stage), default=0) for stage in ("sft", "rl")}
    said = []
    model = knob(config, "model")
    size = parameters(model) if isinstance(model, Mapping) else None
    if size and isinstance(model, Mapping):
        start = model.get("checkpoint")
        origin = f"that starts from <code>{escape(start)}</code>" if start else "that starts from random weights"
        files = knob(config, "data.train")
        problems = f"problems of <code>{escape(files)}</code>" if files else "the embedded task"
        said.append(
            f"A model of <b>{_count(size)} parameters</b> ({model['num_layers']} layers, width "
            f"{model['hidden_size']:,}) {origin} learns {problems}."
        )
    if done["sft"]:
        said.append(
            f"First the cold start: {_of(done['sft'], knob(config, 'sft.num_steps'))} updates on written chains."
        )
    elif knob(config, "sft.num_steps") == 0:
        said.append("There is no cold start.")
    if done["rl"]:
        text = f"{'Then ' if done['sft'] else ''}{_of(done['rl'], knob(config, 'rl.num_steps'))} steps of RL"
        P, R = (knob(config, f"rl.{name}") for name in ("prompts_per_step", "responses_per_prompt"))
        if isinstance(P, int) and isinstance(R, int):
            text += f" on {P:,} problems each, with {R:,} responses to each problem: {done['rl'] * P * R:,} responses"
        if isinstance(temperature := knob(config, "rl.temperature"), int | float):
            text += f", sampled at temperature {temperature:g}"
        said.append(f"{text}.")
    return said


def _of(done: int, planned: Any) -> str:
    return f"<b>{done:,}</b>" if not isinstance(planned, int) or planned == done else f"<b>{done:,}</b> of {planned:,}"


def _moved(moved: Change, gain: str, loss: str) -> str:
    """The change in words, no stronger than its interval."""
    if not moved.clear:
        return f"{moved}, which could be chance"
    return f"{moved}, {gain if moved.value > 0 else loss}"


def _accuracy(run: Run) -> list[str]:
    before, after = run.results.get("sft"), run.results.get("rl")
    if not before:
        return []
    if not after:
        start = f"{percent(before['accuracy'])} {interval(before)}"
        said = [f"Before RL, {start} of {before['n']:,} held-out problems are right."]
        points = [(step, row) for step, row in held_out(run) if step]
        if points:
            step, row = points[-1]
            said.append(f"After {step:,} steps of RL it is {percent(row['accuracy'])} {interval(row)} of {row['n']:,}.")
        return said
    moved = change(before, after)
    said = [
        f"Of {after['n']:,} held-out problems, <b>{percent(before['accuracy'])}</b> {interval(before)} are right "
        f"before RL and <b>{percent(after['accuracy'])}</b> {interval(after)} after it: "
        f"{_moved(moved, 'a clear gain', 'a clear loss')}."
    ]
    if moved.low > 0:
        half = before["accuracy"] + moved.value / 2
        during = [(step, row) for step, row in held_out(run)[1:-1] if row["accuracy"] >= half]
        if during:
            said.append(f"Half of the gain is there by step {during[0][0]:,}.")
    greedy = run.results.get("greedy") or {}
    if isinstance(greedy.get("sft"), Mapping) and isinstance(greedy.get("rl"), Mapping):
        said.append(
            f"With the likeliest token always, {percent(greedy['sft']['accuracy'])} and "
            f"{percent(greedy['rl']['accuracy'])}: {_moved(change(greedy['sft'], greedy['rl']), 'a gain', 'a loss')}."
        )
    forbidden = before.get("forbidden_to_give_up")
    if forbidden:
        more = _moved(change(forbidden, after), "so it taught more than patience", "so it is behind")
        said.append(
            f"Forbidding the first model to give up, which trains nothing, reaches {percent(forbidden['accuracy'])} "
            f"{interval(forbidden)}; RL against that: {more}."
        )
    return said


def _behaviour(run: Run) -> list[str]:
    before, after = run.results.get("sft"), run.results.get("rl")
    if not before or not after:
        return []
    said = []
    lengths = before.get("response_length"), after.get("response_length")
    if lengths[0] and lengths[1]:
        ratio = lengths[1] / lengths[0]
        how = "stay about as long" if 0.95 < ratio < 1.05 else "become longer" if ratio > 1 else "become shorter"
        said.append(f"Responses {how}: {tokens(lengths[0])} tokens before, {tokens(lengths[1])} after.")
    if before.get("attempts") is not None and after.get("attempts") is not None:
        said.append(f"They make {before['attempts']:.1f} attempts before and {after['attempts']:.1f} after.")
    for name, words in (("gave_up", "The share that gives up"), ("false_claims", "The share with a false claim")):
        b, a = of_responses(before, name), of_responses(after, name)
        if b and a:
            said.append(_share_moved(words, b, a))
    orders = [(summary.get("orders") or {}).get("two_pointer") for summary in (before, after)]
    if None not in orders:
        b, a = (of_responses({**s, "order": o}, "order") for s, o in zip((before, after), orders, strict=True))
        if b and a:
            said.append(_share_moved("The share that closes in from both ends, the shorter way,", b, a))
    return said


def _share_moved(words: str, before: Share, after: Share) -> str:
    moved = change(before, after)
    ends = f"from {percent(before['accuracy'])} to {percent(after['accuracy'])}"
    if not moved.clear:
        return f"{words} does not clearly change ({ends})."
    return f"{words} {'rises' if moved.value > 0 else 'falls'} {ends}: {moved}."


def _thinking(run: Run) -> list[str]:
    stages: dict[str, list[Share]] = {}
    for point in sorted(run.results.get("scaling") or [], key=lambda point: point["budget"]):
        stages.setdefault(point["stage"], []).append(point)
    said = []
    for stage, words in (("sft", "Before RL"), ("rl", "After RL")):
        points = stages.get(stage, [])
        if len(points) > 1:
            said.append(f"{words}, {_pays(points)}.")
    if stages.keys() >= {"sft", "rl"}:
        said += _lead(stages["sft"], stages["rl"])
    return said


def _pays(points: Sequence[Share]) -> str:
    """Up to which budget more thinking helps."""
    first, last = points[0], points[-1]
    whole = change(first, last)
    ends = (
        f"{percent(first['accuracy'])} at {first['budget']:,} thinking tokens and {percent(last['accuracy'])} at "
        f"{last['budget']:,}"
    )
    if not whole.clear:
        return f"more thinking makes no clear difference: {ends}"
    if whole.value < 0:
        return f"more thinking hurts: {ends}"
    enough = next(i for i, point in enumerate(points) if change(point, last).low <= 0)
    if enough == len(points) - 1:
        return f"accuracy grows with thinking to the longest budget: {ends}"
    return f"accuracy grows with thinking: {ends}; beyond {points[enough]['budget']:,} tokens nothing clear is gained"


def _lead(before: Sequence[Share], after: Sequence[Share]) -> list[str]:
    """Where one stage is ahead of the other at equal budgets."""
    theirs = {point["budget"]: point for point in before}
    moves = [(p["budget"], change(theirs[p["budget"]], p)) for p in after if p["budget"] in theirs]
    ahead = [budget for budget, moved in moves if moved.low > 0]
    behind = [budget for budget, moved in moves if moved.high < 0]
    said = []
    if ahead:
        said.append(f"At equal budgets the model after RL is clearly ahead at {_range(ahead, moves)}.")
    if behind:
        said.append(f"It is clearly behind at {_range(behind, moves)}.")
    return said


def _range(budgets: Sequence[int], moves: Sequence[tuple[int, Change]]) -> str:
    every = [budget for budget, _ in moves]
    if len(budgets) == len(every):
        return "every one"
    if budgets == every[len(every) - len(budgets) :]:
        return f"{budgets[0]:,} tokens and more"
    return f"{', '.join(f'{budget:,}' for budget in budgets)} tokens"


def _time(run: Run) -> list[str]:
    seconds = run.results.get("seconds") or {}
    total = total_seconds(seconds) if seconds else 0.0
    if total <= 0:
        return []
    parts = sorted(((value or 0.0, name) for name, value in seconds.items() if name != "total"), reverse=True)
    words = [f"{100 * value / total:.0f}\u00a0% {escape(STAGE_WORDS.get(name, name))}" for value, name in parts]
    said = [f"<b>{clock(total)}</b> in all: {', '.join(words)}."]
    speeds = [r["tokens_per_second"] for r in run.rows if r["stage"] == "rl" and r.get("tokens_per_second")]
    if speeds:
        said.append(f"RL handles {sorted(speeds)[len(speeds) // 2]:,.0f} tokens a second (median step).")
    return said
