# SPDX-License-Identifier: Apache-2.0
"""Parses a response's attempts: what it tried, what it claimed, and whether that is true.

Contains what the embedded tasks share, and the line format of pairs (pairs/task.py).
Where: rewards and evaluation. Nothing here is rewarded; it shows whether a gain in accuracy is honest.
Each step is judged on three skills, separately, so that one mistake counts once:
    copying     the operands are two different members of the list, and the target is restated correctly
    arithmetic  the sum (or, in a check, the difference) is correct for the operands as written
    verdict     the verdict is correct for the result as written and the true target
Deliberately not here: the lines of Countdown (countdown/analysis.py), whether the answer is right (pairs/task.py),
shares and intervals (evaluation/figures.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from t1jax.tasks.pairs import chains

Order = Literal["row", "short", "other"]  # row by row, the longer order of a writer; its shorter one; neither
ORDERS: tuple[Order, ...] = ("row", "short", "other")

_NUMBER = "([0-9]{1,9})"
_VERDICT = f"({'|'.join(chains.VERDICTS)})"
_ATTEMPT = re.compile(rf"{_NUMBER}\+{_NUMBER}={_NUMBER}{chains.NEED}{_NUMBER}: {_VERDICT}")
_CHECK = re.compile(rf"{chains.CHECK}{_NUMBER}-{_NUMBER}={_NUMBER}: {_VERDICT}")


@dataclass(frozen=True, kw_only=True)
class Step:
    """A line of the thinking, and which of its three skills are correct."""

    expression: str  # what was tried or checked, as it would be boxed: "6+14"
    verdict: str
    copied: bool
    arithmetic: bool
    verdict_right: bool
    position: int  # attempts before it in the response

    @property
    def true(self) -> bool:
        """Whether all skills are correct. A true step with verdict "yes" solves the problem."""
        return self.copied and self.arithmetic and self.verdict_right


@dataclass(frozen=True, kw_only=True)
class Try(Step):
    """An attempt at an answer, in any task."""

    same_as: Hashable  # equal for attempts at the same answer, however written


@dataclass(frozen=True, kw_only=True)
class Attempt(Try):
    """A line "left+right=total, need target: verdict", as written."""

    left: int
    right: int
    total: int
    target: int


@dataclass(frozen=True, kw_only=True)
class Check(Step):
    """A line "check target-left=right: verdict", as written."""

    target: int
    left: int
    right: int


@dataclass(frozen=True)
class Analysis:
    """What a response tried and claimed; see `analyse` and `collect`."""

    attempts: tuple[Try, ...]
    checks: tuple[Step, ...]
    malformed: int  # lines of the thinking that are neither an attempt nor a check
    closed: bool  # the thinking has ended
    claimed: bool  # some line claims "yes"
    gave_up: bool  # the thinking has ended or an answer is boxed, without a claim
    false_claim: bool  # some line claims "yes" and is false or malformed
    repeated: int  # attempts at an answer that was tried before
    order: Order | None  # the search order of the demonstrations that all attempts follow; None: not told


def analyse(numbers: tuple[int, ...], target: int, response: str) -> Analysis:
    """Analyses a response to the problem (`numbers`, ascending, and `target`). Lines after the thinking count too."""

    def read(line: str, attempts: Sequence[Try]) -> Step | None:
        if match := _ATTEMPT.fullmatch(line):
            return _attempt(match, numbers, target, len(attempts))
        return _check(match, numbers, target, len(attempts)) if (match := _CHECK.fullmatch(line)) else None

    found = collect(response, read)
    pairs = [(attempt.left, attempt.right) for attempt in found.attempts if isinstance(attempt, Attempt)]
    orders = chains.row_order(numbers, target), chains.two_pointers(numbers, target)
    return replace(found, order=order_of(pairs, *orders))


def collect(response: str, read: Callable[[str, Sequence[Try]], Step | None]) -> Analysis:
    """Analyses a response with any line format; `order` is None.

    Args:
      response: the whole text, thinking and answer.
      read: parses a line, given the attempts before it; returns None if the line is neither an attempt nor a check.
    """
    attempts: list[Try] = []
    checks: list[Step] = []
    malformed = unreadable_claims = 0
    thinking, closing, answer = response.partition(chains.CLOSE)
    for line in thinking.split("\n") + answer.split("\n"):
        step = read(line, attempts)
        if isinstance(step, Try):
            attempts.append(step)
        elif step is not None:
            checks.append(step)
        elif line and chains.BOX not in line:
            malformed += 1
            unreadable_claims += line.endswith(f": {chains.YES}")
    claims = [step for step in (*attempts, *checks) if step.verdict == chains.YES]
    claimed = bool(claims) or unreadable_claims > 0
    return Analysis(
        attempts=tuple(attempts),
        checks=tuple(checks),
        malformed=malformed,
        closed=bool(closing),
        claimed=claimed,
        gave_up=(bool(closing) or chains.BOX in response) and not claimed,
        false_claim=unreadable_claims > 0 or not all(step.true for step in claims),
        repeated=len(attempts) - len({attempt.same_as for attempt in attempts}),
        order=None,
    )


def order_of(tried: Sequence[Hashable], row: Sequence[Hashable], short: Sequence[Hashable]) -> Order:
    """Which of a writer's two orders all attempts follow from its start; "row" where both do."""
    if tried and list(tried) == list(row[: len(tried)]):
        return "row"
    if tried and list(tried) == list(short[: len(tried)]):
        return "short"
    return "other"


def tally(analyses: Iterable[Analysis], late_from: int) -> dict[str, tuple[int, int]]:
    """Skill -> (correct, total) over all steps, and as `late_*` over steps after at least `late_from` attempts."""
    steps = [step for analysis in analyses for step in (*analysis.attempts, *analysis.checks)]
    late = [step for step in steps if step.position >= late_from]
    counts = {}
    for prefix, group in (("", steps), ("late_", late)):
        counts[f"{prefix}arithmetic"] = (sum(step.arithmetic for step in group), len(group))
        counts[f"{prefix}copying"] = (sum(step.copied for step in group), len(group))
        counts[f"{prefix}verdicts"] = (sum(step.verdict_right for step in group), len(group))
    return counts


def _attempt(match: re.Match[str], numbers: tuple[int, ...], target: int, position: int) -> Attempt:
    left, right, total, restated = (int(match[group]) for group in (1, 2, 3, 4))
    return Attempt(
        expression=f"{left}+{right}",
        same_as=(min(left, right), max(left, right)),
        left=left,
        right=right,
        total=total,
        target=restated,
        verdict=match[5],
        copied=left != right and left in numbers and right in numbers and restated == target,
        arithmetic=left + right == total,
        verdict_right=match[5] == chains.verdict(total, target),
        position=position,
    )


def _check(match: re.Match[str], numbers: tuple[int, ...], target: int, position: int) -> Check:
    restated, left, right = (int(match[group]) for group in (1, 2, 3))
    return Check(
        expression=f"{restated}-{left}",
        target=restated,
        left=left,
        right=right,
        verdict=match[4],
        copied=restated == target and left in numbers,
        arithmetic=restated - left == right,
        verdict_right=(match[4] == chains.YES) == (right in numbers and right != left),
        position=position,
    )
