# SPDX-License-Identifier: Apache-2.0
"""Parses a response to a Countdown problem: what was tried, what was claimed, and whether it is true.

Used in evaluation; nothing here is rewarded. The skills of a step, judged separately (tasks/honesty.py):
    copying     the numbers are different members of the list, the second operation continues from the first one's
                result as written, and the target is restated correctly
    arithmetic  both results (of a check: the one) are right for the operands as written
    verdict     the verdict is right for the result as written and the true target; a check may say "yes" if it takes
                back the last operation of the attempt before it
Deliberately not here: what all tasks share (tasks/honesty.py), whether the answer is right (task.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from t1jax.tasks import honesty
from t1jax.tasks.countdown.chains import INVERSE, THEN, Expression, apply, attempts
from t1jax.tasks.honesty import Analysis, Step, Try
from t1jax.tasks.pairs import chains

_NUMBER = "([0-9]{1,9})"
_VERDICT = f"({'|'.join(chains.VERDICTS)})"
_ATTEMPT = re.compile(
    rf"{_NUMBER}([-+*]){_NUMBER}={_NUMBER}{THEN}{_NUMBER}([-+*]){_NUMBER}={_NUMBER}{chains.NEED}{_NUMBER}: {_VERDICT}"
)
_CHECK = re.compile(rf"{chains.CHECK}{_NUMBER}([-+/]){_NUMBER}={_NUMBER}: {_VERDICT}")


@dataclass(frozen=True, kw_only=True)
class Attempt(Try):
    """A line "a+b=joined, then left-right=total, need target: verdict", as written."""

    left: int
    second: str
    right: int
    total: int
    target: int


def analyse(numbers: tuple[int, ...], target: int, most: int, response: str) -> Analysis:
    """Read `response` to the problem (`numbers` ascending, `target`). Lines after the thinking count as well.

    `most`: the largest result of the writer, whose orders of attempts depend on it.
    """

    def read(line: str, before: Sequence[Try]) -> Step | None:
        if match := _ATTEMPT.fullmatch(line):
            return _attempt(match, numbers, target, len(before))
        return _check(match, target, before) if (match := _CHECK.fullmatch(line)) else None

    found = honesty.collect(response, read)
    row, short = (
        [str(expression) for expression in attempts(numbers, target, most, nearest_first)]
        for nearest_first in (False, True)
    )
    return replace(found, order=honesty.order_of([attempt.expression for attempt in found.attempts], row, short))


def _attempt(match: re.Match[str], numbers: tuple[int, ...], target: int, position: int) -> Attempt:
    a, b, joined, left, right, total, restated = (int(match[group]) for group in (1, 3, 4, 5, 7, 8, 9))
    first, second = match[2], match[6]
    behind = left != joined and right == joined
    expression = Expression(a, first, b, second, left if behind else right, behind)
    used = (a, b, expression.c)
    commutes = second != "-"
    return Attempt(
        expression=str(expression),
        same_as=(_unordered(first, a, b), second, expression.c, behind and not commutes),
        left=left,
        second=second,
        right=right,
        total=total,
        target=restated,
        verdict=match[10],
        copied=len(set(used)) == 3 and set(used) <= set(numbers) and joined in (left, right) and restated == target,
        arithmetic=apply(first, a, b) == joined and apply(second, left, right) == total,
        verdict_right=match[10] == chains.verdict(total, target),
        position=position,
    )


def _check(match: re.Match[str], target: int, attempts: Sequence[Try]) -> Step:
    restated, taken, given = (int(match[group]) for group in (1, 3, 4))
    operation, verdict = match[2], match[5]
    last = attempts[-1] if attempts else None
    undoes = isinstance(last, Attempt) and INVERSE[last.second] == operation and _takes_back(last, taken, given)
    if operation == "/":
        arithmetic = taken != 0 and taken * given == restated
    else:
        arithmetic = apply(operation, restated, taken) == given
    return Step(
        expression=f"{restated}{operation}{taken}",
        verdict=verdict,
        copied=restated == target,
        arithmetic=arithmetic,
        verdict_right=(verdict == chains.YES) == undoes,
        position=len(attempts),
    )


def _takes_back(last: Attempt, taken: int, given: int) -> bool:
    """Whether the operands of a check are those of the attempt's last operation."""
    if last.second == "-":
        return (taken, given) == (last.right, last.left)
    return sorted((taken, given)) == sorted((last.left, last.right))


def _unordered(operation: str, a: int, b: int) -> tuple[str, int, int]:
    return (operation, a, b) if operation == "-" else (operation, min(a, b), max(a, b))
