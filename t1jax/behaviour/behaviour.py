# SPDX-License-Identifier: Apache-2.0
"""T1's analysis of behaviour: what a response does on the way to its answer, and how often responses do it.

... -> evaluate -> **behaviour** -> report. Responses to embedded tasks are parsed by exact rules (tasks/honesty.py);
text from file problems is searched for keywords (prose.py). The measures are the same for both:

    attempts       embedded: lines that try something. Text: see prose.py
    reflections    embedded: attempts and checks that the response itself finds wrong. Text: occurrences of a keyword
    backtracks     embedded: attempts after one that was found wrong. Text: occurrences of a keyword
    verifications  embedded: check lines. Text: occurrences of a keyword
    repeated       embedded: attempts at what was tried before. Text: attempts with an earlier attempt's answer
    first_right    whether the first attempt is right, and (embedded) the response says so
    stop           how it ended, the first that holds:
        cut off      no stop token within the limit
        gave up      embedded: nothing claimed. Text: no candidate answer, or a giving-up keyword at the end
        verified     checked after the last claim (embedded: with "yes") or within the last attempt with an answer
        unverified   answered without

Deliberately not here: where responses come from (saved.py), tables, plots and the page (analyze.py, page.py).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from t1jax.behaviour import prose
from t1jax.evaluation.statistics import Share, bootstrap
from t1jax.rewards.answers import RIGHT, WRONG, Outcome
from t1jax.tasks.honesty import Analysis
from t1jax.tasks.pairs import chains

Stop = Literal["verified", "unverified", "gave up", "cut off"]
STOPS: tuple[Stop, ...] = ("verified", "unverified", "gave up", "cut off")
MEANS = ("attempts", "reflections", "backtracks", "verifications")
TURNS = 12  # openings of turning steps that are listed
BINS = 24  # of the histogram of lengths
Figure = dict[str, Any]  # value, low, high, n; of a share also count


@dataclass(frozen=True)
class Behaviour:
    """What one response does."""

    outcome: Outcome
    tokens: int
    attempts: int
    reflections: int
    backtracks: int
    verifications: int
    repeated: int
    first_right: bool | None  # None: there is no attempt, or only algebra could tell
    stop: Stop
    false_claim: bool | None  # some line claims what is not true; None: only embedded tasks can tell
    turns: tuple[str, ...] = ()  # how the steps begin that follow a wrong attempt, where the response is right

    @property
    def recovered(self) -> bool:
        """A wrong first attempt, and right in the end."""
        return self.first_right is False and self.outcome == RIGHT

    @property
    def lost(self) -> bool:
        """A right first attempt, and wrong in the end."""
        return self.first_right is True and self.outcome == WRONG


# what a response may do: name -> whether it does
HABITS: dict[str, Callable[[Behaviour], bool]] = {
    "reflects": lambda b: b.reflections > 0,
    "backtracks": lambda b: b.backtracks > 0,
    "verifies": lambda b: b.verifications > 0,
    "repeats": lambda b: b.repeated > 0,
    "right at once": lambda b: b.first_right is True,
    "recovers": lambda b: b.recovered,
    "loses": lambda b: b.lost,
    "claims falsely": lambda b: b.false_claim is True,
}


def of_lines(analysis: Analysis, outcome: Outcome, tokens: int, overlong: bool) -> Behaviour:
    """What a response to an embedded task does, `tokens` long."""
    attempts, checks = analysis.attempts, analysis.checks
    rejected = [step for step in (*attempts, *checks) if step.verdict != chains.YES]
    claims = [attempt.position for attempt in attempts if attempt.verdict == chains.YES]
    last = max(claims, default=-1)  # a check stands behind the attempt that has its position less one
    verified = any(check.verdict == chains.YES and check.position > last for check in checks)
    first = attempts[0] if attempts else None
    return Behaviour(
        outcome=outcome,
        tokens=tokens,
        attempts=len(attempts),
        reflections=len(rejected),
        backtracks=sum(before.verdict != chains.YES for before, _ in itertools.pairwise(attempts)),
        verifications=len(checks),
        repeated=analysis.repeated,
        first_right=None if first is None else first.true and first.verdict == chains.YES,
        stop=_stop(overlong, not analysis.claimed, verified),
        false_claim=analysis.false_claim,
    )


def of_text(text: str, gold: str | None, outcome: Outcome, tokens: int, overlong: bool) -> Behaviour:
    """What a response to a problem of a file does."""
    reading = prose.read(text, gold, outcome)
    return Behaviour(
        outcome=outcome,
        tokens=tokens,
        attempts=len(reading.attempts),
        reflections=reading.reflections,
        backtracks=reading.backtracks,
        verifications=reading.verifications,
        repeated=reading.repeated,
        first_right=reading.attempts[0].right,
        stop=_stop(overlong, reading.gave_up, reading.verified),
        false_claim=None,
        turns=reading.turns,
    )


def summarise(behaviours: Sequence[Behaviour]) -> dict[str, Any]:
    """The figures of one evaluation, each with its 95 % interval.

    Responses that are neither right nor wrong (unscorable, or with a reward alone) are left out of all that speaks of
    right and wrong.

    Returns:
      {responses, unscorable, accuracy, first_attempt, recovery, loss, false_claims (None: cannot tell), repeated,
      habits: name -> share, stops: name -> share, means: name -> mean a response, length, length_right, length_wrong,
      lengths: see `histogram`, turns: [[opening, times]]}. Shares are {value, low, high, n, count} with Wilson's
      interval, means {value, low, high, n} with a bootstrap's; the value is None where n is 0.
    """
    scorable = [b for b in behaviours if b.outcome in (RIGHT, WRONG)]
    right = [b for b in scorable if b.outcome == RIGHT]
    wrong = [b for b in scorable if b.outcome != RIGHT]
    began = [b for b in scorable if b.first_right is not None]
    told = [b for b in behaviours if b.false_claim is not None]
    turns = Counter(turn for b in behaviours for turn in b.turns if turn)
    attempts = sum(b.attempts for b in behaviours)
    return {
        "responses": len(behaviours),
        "unscorable": len(behaviours) - len(scorable),
        "accuracy": share(len(right), len(scorable)),
        "first_attempt": share(sum(b.first_right is True for b in began), len(began)),
        "recovery": share(sum(b.recovered for b in began), sum(b.first_right is False for b in began)),
        "loss": share(sum(b.lost for b in began), sum(b.first_right is True for b in began)),
        "false_claims": share(sum(b.false_claim is True for b in told), len(told)) if told else None,
        "repeated": share(sum(b.repeated for b in behaviours), attempts),
        "habits": {
            name: share(sum(map(does, behaviours)), len(behaviours))
            for name, does in HABITS.items()
            if name in ("reflects", "backtracks", "verifies", "repeats")
        },
        "stops": {stop: share(sum(b.stop == stop for b in behaviours), len(behaviours)) for stop in STOPS},
        "means": {name: mean([getattr(b, name) for b in behaviours]) for name in MEANS},
        "length": mean([b.tokens for b in behaviours]),
        "length_right": mean([b.tokens for b in right]),
        "length_wrong": mean([b.tokens for b in wrong]),
        "lengths": histogram(right, wrong),
        "turns": [list(item) for item in sorted(turns.items(), key=lambda item: (-item[1], item[0]))[:TURNS]],
    }


def share(count: int, n: int) -> Figure:
    """A share with its 95 % Wilson interval."""
    found = Share(count, n)
    return {"value": found.value, "low": found.low, "high": found.high, "n": n, "count": count}


def mean(values: Sequence[float]) -> Figure:
    """A mean with the 95 % interval of a bootstrap over responses; of fewer than two, without one."""
    if not values:
        return {"value": None, "low": None, "high": None, "n": 0}
    low, high = bootstrap(np.array(values, float)[:, None], resamples=2000)
    known = len(values) > 1
    return {
        "value": float(np.mean(values)),
        "low": float(low[0]) if known else None,
        "high": float(high[0]) if known else None,
        "n": len(values),
    }


def histogram(right: Sequence[Behaviour], wrong: Sequence[Behaviour]) -> dict[str, list[int]]:
    """{edges, right, wrong}: how many responses have edges[i] to edges[i + 1] - 1 tokens; edges are BINS + 1."""
    longest = max((b.tokens for b in (*right, *wrong)), default=0)
    width = longest // BINS + 1
    edges = [i * width for i in range(BINS + 1)]
    of_right, of_wrong = (np.histogram([b.tokens for b in part], edges)[0].tolist() for part in (right, wrong))
    return {"edges": edges, "right": of_right, "wrong": of_wrong}


def _stop(overlong: bool, gave_up: bool, verified: bool) -> Stop:
    return "cut off" if overlong else "gave up" if gave_up else "verified" if verified else "unverified"
