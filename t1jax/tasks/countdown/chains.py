# SPDX-License-Identifier: Apache-2.0
"""Expressions of the Countdown task, and the writer of its trial-and-error chains.

prompts -> (cold start) -> rollouts. A chain is what a person might write: combine two numbers, find which of the others
brings that nearest to the target, say why it fails, combine the next two, verify what works, box it.
The headroom is deliberate: an impatient chain gives up after a failed attempt and boxes an expression that it has not
tried. The wording is that of the demo's task (tasks/pairs/chains.py).
Deliberately not here: problems (task.py), parsing a chain (analysis.py).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from t1jax.config import TaskConfig
from t1jax.tasks.pairs import chains

ASK, FROM, ASKED = "Make ", " from ", ".\n"
THEN = ", then "
OPERATIONS = "+-*"
INVERSE = {"+": "-", "-": "+", "*": "/"}  # how a check takes the last operation back
LOOSE = "+-"  # operations that need parentheses inside of others

# What must be one token each, so that an attempt is 14 tokens and a verdict is one.
PHRASES = (
    ASK, FROM, chains.SEPARATOR, ASKED, chains.OPEN, chains.CLOSE, chains.BOX, THEN, chains.NEED, chains.CHECK,
    *(f": {verdict}\n" for verdict in chains.VERDICTS), *OPERATIONS, "/", "=", "(", ")", "}",
)  # fmt: skip


def apply(operation: str, left: int, right: int) -> int:
    """`left operation right`, of + - *."""
    return {"+": left + right, "-": left - right, "*": left * right}[operation]


@dataclass(frozen=True)
class Expression:
    """`(a first b) second c`, or `c second (a first b)` where the joined pair comes behind a minus."""

    a: int
    first: str
    b: int
    second: str
    c: int
    behind: bool = False  # c - (a first b)

    @property
    def joined(self) -> int:
        """What the first operation gives."""
        return apply(self.first, self.a, self.b)

    @property
    def sides(self) -> tuple[int, int]:
        """Left and right of the second operation."""
        return (self.c, self.joined) if self.behind else (self.joined, self.c)

    @property
    def value(self) -> int:
        return apply(self.second, *self.sides)

    def __str__(self) -> str:
        """As it stands in a box: parentheses only where they are needed."""
        inner = f"{self.a}{self.first}{self.b}"
        if self.first in LOOSE and (self.behind or self.second == "*"):
            inner = f"({inner})"
        return f"{self.c}{self.second}{inner}" if self.behind else f"{inner}{self.second}{self.c}"


def joins(numbers: tuple[int, ...], most: int) -> Iterator[tuple[int, str, int, tuple[int, ...]]]:
    """(a, operation, b, the other numbers): pairs of `numbers` (ascending) in order, + then - then *; results 1..most.

    What is less or more than a person would try: the smaller from the larger, no multiplication by one.
    """
    for i, j in itertools.combinations(range(len(numbers)), 2):
        rest = numbers[:i] + numbers[i + 1 : j] + numbers[j + 1 :]
        small, large = numbers[i], numbers[j]
        for a, operation, b in ((small, "+", large), (large, "-", small), (small, "*", large)):
            if 1 <= apply(operation, a, b) <= most and (operation != "*" or small > 1):
                yield a, operation, b, rest


def completions(a: int, operation: str, b: int, rest: tuple[int, ...], most: int) -> list[Expression]:
    """All ways to go on from a joined pair with one of `rest`; results 0..most."""
    joined = apply(operation, a, b)
    found = []
    for c in rest:
        found += [Expression(a, operation, b, "+", c), Expression(a, operation, b, "-", c, behind=c > joined)]
        if c > 1 and joined > 1:
            found.append(Expression(a, operation, b, "*", c))
    return [expression for expression in found if 0 <= expression.value <= most]


def attempts(numbers: tuple[int, ...], target: int, most: int, nearest_first: bool = False) -> list[Expression]:
    """The writer's attempts up to the first that works: of each joined pair the completion nearest to the target.

    The pairs row by row as `joins` has them or, the shorter order, those first that come nearest to the target.
    """
    ways = list(joins(numbers, most))
    if nearest_first:
        ways.sort(key=lambda way: abs(apply(way[1], way[0], way[2]) - target))
    tried = []
    for a, operation, b, rest in ways:
        found = completions(a, operation, b, rest, most)
        if not found:
            continue
        tried.append(min(found, key=lambda expression: abs(expression.value - target)))  # of equals the first
        if tried[-1].value == target:
            break
    return tried


def attempt_line(expression: Expression, target: int) -> str:
    """`7+8=15, then 15-1=14, need 14: yes`."""
    first = f"{expression.a}{expression.first}{expression.b}={expression.joined}"
    left, right = expression.sides
    second = f"{left}{expression.second}{right}={expression.value}"
    return f"{first}{THEN}{second}{chains.NEED}{target}: {chains.verdict(expression.value, target)}\n"


def check_line(expression: Expression) -> str:
    """The last operation taken back: `check 14+1=15: yes`."""
    left, right = expression.sides
    taken, given = (right, left) if expression.second == "-" else (expression.c, expression.joined)
    return f"{chains.CHECK}{expression.value}{INVERSE[expression.second]}{taken}={given}: {chains.YES}\n"


def write_chain(numbers: tuple[int, ...], target: int, cfg: TaskConfig, rng: random.Random) -> str:
    """One response, from after "<think>\\n" to the closed box. It never gives up after a "yes".

    With cfg.chains "right_only" it is the expression that works, at once.
    """
    give_up = cfg.give_up if rng.random() < cfg.impatient_share else 0.0
    lines: list[str] = []
    boxed = None
    tried: set[str] = set()
    nearest_first = cfg.row_order_share < 1 and rng.random() >= cfg.row_order_share  # nothing is drawn for one order
    order = attempts(numbers, target, cfg.max_target, nearest_first)
    for expression in order[-1:] if cfg.chains == "right_only" else order:
        boxed = expression
        tried.add(str(expression))
        lines.append(attempt_line(expression, target))
        if expression.value == target:
            lines.append(check_line(expression))
            break
        if rng.random() < give_up:
            ways = (completions(*join, cfg.max_target) for join in joins(numbers, cfg.max_target))
            boxed = rng.choice([way for found in ways for way in found if str(way) not in tried])
            break
    return f"{''.join(lines)}{chains.CLOSE}\n{chains.BOX}{boxed}}}"
