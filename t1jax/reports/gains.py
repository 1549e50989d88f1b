# SPDX-License-Identifier: Apache-2.0
"""Sentences on what RL changed: accuracy, behaviour, and what more thinking is worth. Part of story.py.

A change is called a gain or a loss only if its 95 % interval leaves out zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from t1jax.reports.runs import Run, held_out
from t1jax.reports.wording import Change, Share, amount, change, graded, interval, measure, of_responses, shown, tokens


def accuracy(run: Run) -> list[str]:
    """What RL did to accuracy, or to the mean reward, on held-out problems."""
    before, after = run.results.get("sft"), run.results.get("rl")
    if not before or not after:
        return list(_one_sided(run))
    moved = change(before, after)
    of, verb = ("Of", "are right") if graded(after) else ("On", "is the mean reward")
    said = [
        f"{of} {after['n']:,} held-out problems, <b>{shown(before)}</b> {interval(before)} {verb} "
        f"before RL and <b>{shown(after)}</b> {interval(after)} after it: "
        f"{_moved(moved, 'a clear gain', 'a clear loss')}."
    ]
    if moved.low > 0:
        half = amount(before) + moved.value / 2
        during = [(step, row) for step, row in held_out(run)[1:-1] if amount(row) >= half]
        if during:
            said.append(f"Half of the gain is reached by step {during[0][0]:,}.")
    greedy = run.results.get("greedy") or {}
    if isinstance(greedy.get("sft"), Mapping) and isinstance(greedy.get("rl"), Mapping):
        said.append(
            f"With greedy decoding, {shown(greedy['sft'])} and "
            f"{shown(greedy['rl'])}: {_moved(change(greedy['sft'], greedy['rl']), 'a gain', 'a loss')}."
        )
    forbidden = before.get("forbidden_to_give_up")
    if forbidden:
        more = _moved(change(forbidden, after), "so it taught more than patience", "so it is behind")
        said.append(
            f"Forbidding the first model to give up, which trains nothing, reaches {shown(forbidden)} "
            f"{interval(forbidden)}; RL against that: {more}."
        )
    return said


def _one_sided(run: Run) -> Iterator[str]:
    """What is known where accuracy was not measured before RL, or not yet after it."""
    before, after = run.results.get("sft"), run.results.get("rl")
    points = [(step, row) for step, row in held_out(run) if step]
    if before:
        yield f"Before RL, {_measured(before, 'is')}."
    elif after:
        yield f"After RL, {_measured(after, 'is')}; nothing was measured before it."
        points = points[:1] if len(points) > 1 else []
    if points and (before or after):
        step, row = points[-1]
        yield f"After {step:,} steps of RL it {'is' if before else 'was'} {shown(row)} {interval(row)} of {row['n']:,}."


def _measured(share: Share, verb: str) -> str:
    if graded(share):
        return f"{shown(share)} {interval(share)} of {share['n']:,} held-out problems are right"
    return f"the mean reward on {share['n']:,} held-out problems {verb} {shown(share)} {interval(share)}"


def _moved(moved: Change, gain: str, loss: str) -> str:
    """The change in words, as far as its interval allows."""
    if not moved.clear:
        return f"{moved}, which could be chance"
    return f"{moved}, {gain if moved.value > 0 else loss}"


def behaviour(run: Run) -> list[str]:
    """What RL did to lengths, attempts and claims."""
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
    orders = [(summary.get("orders") or {}).get("short") for summary in (before, after)]
    if None not in orders:
        b, a = (of_responses({**s, "order": o}, "order") for s, o in zip((before, after), orders, strict=True))
        if b and a:
            said.append(_share_moved("The share that searches in the shorter order", b, a))
    return said


def _share_moved(words: str, before: Share, after: Share) -> str:
    moved = change(before, after)
    ends = f"from {shown(before)} to {shown(after)}"
    if not moved.clear:
        return f"{words} does not clearly change ({ends})."
    return f"{words} {'rises' if moved.value > 0 else 'falls'} {ends}: {moved}."


def thinking(run: Run) -> list[str]:
    """Whether more thinking helps, before and after RL."""
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
    """The budget up to which more thinking helps, in words."""
    first, last = points[0], points[-1]
    whole = change(first, last)
    ends = f"{shown(first)} at {first['budget']:,} thinking tokens and {shown(last)} at {last['budget']:,}"
    if not whole.clear:
        return f"more thinking makes no clear difference: {ends}"
    if whole.value < 0:
        return f"more thinking hurts: {ends}"
    enough = next(i for i, point in enumerate(points) if change(point, last).low <= 0)
    if enough == len(points) - 1:
        return f"{measure(last)} grows with thinking to the longest budget: {ends}"
    beyond = f"beyond {points[enough]['budget']:,} tokens nothing clear is gained"
    return f"{measure(last)} grows with thinking: {ends}; {beyond}"


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
