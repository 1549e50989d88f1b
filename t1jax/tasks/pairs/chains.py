# SPDX-License-Identifier: Apache-2.0
"""Generates trial-and-error chains for the embedded task, and defines the wording of prompts and chains.

prompts -> (cold start) -> rollouts. A chain is what a person might write: try a pair, say why it fails, try the next,
verify the one that works, box it.
The headroom is deliberate. Most chains try pairs in row order, which is long; an impatient chain gives up after a
failed attempt and boxes a pair that it has not tried. So RL has two things to discover: persistence, and the shorter
order.
Source: T1 (arXiv 2501.11651) section on the cold start: attempts, criticism, another try, verification.
Deliberately not here: problems and their answers (task.py), parsing a chain (tasks/honesty.py), other tasks' chains.
"""

from __future__ import annotations

import itertools
import random

from t1jax.config import TaskConfig
from t1jax.text.tokenizer import TokenIds, Tokenizer

Pair = tuple[int, int]

ASK, SEPARATOR, GOAL, ASKED = "Pick two of ", ", ", " that sum to ", ".\n"
OPEN, CLOSE, BOX = "<think>", "</think>", "\\boxed{"
BEGIN = f"{OPEN}\n"  # what the prompts of all embedded tasks end with, on a line of its own
NEED, CHECK = ", need ", "check "
YES, TOO_SMALL, TOO_BIG = "yes", "too small", "too big"
VERDICTS = (YES, TOO_SMALL, TOO_BIG)
CUT_ANSWER_PREFIX = f"\n{CLOSE}\n{BOX}"  # after a thought that was cut: what is left to write is the answer

# What must be one token each, so that an attempt is eight tokens and a verdict is one.
PHRASES = (ASK, SEPARATOR, GOAL, ASKED, OPEN, CLOSE, BOX, NEED, CHECK, *(f": {verdict}\n" for verdict in VERDICTS))


def verdict(total: int, target: int) -> str:
    """What is to be said of an attempt with this total."""
    return YES if total == target else TOO_SMALL if total < target else TOO_BIG


def row_order(numbers: tuple[int, ...], target: int) -> list[Pair]:
    """Attempts row by row up to the first that works: a1+a2, a1+a3, ...; "too big" ends the row."""
    attempts = []
    for i, left in enumerate(numbers):
        for right in numbers[i + 1 :]:
            attempts.append((left, right))
            if left + right == target:
                return attempts
            if left + right > target:
                break
    return attempts


def two_pointers(numbers: tuple[int, ...], target: int) -> list[Pair]:
    """Attempts from the outside in, at most n - 1: too small moves the left end, too big the right one."""
    attempts = []
    i, j = 0, len(numbers) - 1
    while i < j:
        attempts.append((numbers[i], numbers[j]))
        total = numbers[i] + numbers[j]
        if total == target:
            return attempts
        i, j = (i + 1, j) if total < target else (i, j - 1)
    return attempts


def write_chain(numbers: tuple[int, ...], target: int, cfg: TaskConfig, rng: random.Random) -> str:
    """One response, from after "<think>\\n" to the closed box. It never gives up after a "yes".

    With cfg.chains "right_only" it is the pair that works, at once: what a cold start without failed attempts learns.
    """
    order = row_order if rng.random() < cfg.row_order_share else two_pointers
    give_up = cfg.give_up if rng.random() < cfg.impatient_share else 0.0
    lines: list[str] = []
    attempts = order(numbers, target)
    if cfg.chains == "right_only":
        attempts = attempts[-1:]
    for tried, (left, right) in enumerate(attempts, start=1):
        total = left + right
        lines.append(f"{left}+{right}={total}{NEED}{target}: {verdict(total, target)}\n")
        if total == target:
            lines.append(f"{CHECK}{target}-{left}={right}: {YES}\n")
            break
        if rng.random() < give_up:
            untried = set(itertools.combinations(numbers, 2)) - set(attempts[:tried])
            left, right = rng.choice(sorted(untried))
            break
    return f"{''.join(lines)}{CLOSE}\n{BOX}{left}+{right}}}"


def thought_end(tokens: TokenIds, tokenizer: Tokenizer) -> int | None:
    """Tokens before the </think>, which is one token; None if there is none."""
    (closing,) = tokenizer.encode(CLOSE)
    return next((place for place, token in enumerate(tokens) if token == closing), None)


def forbid_giving_up(tokenizer: Tokenizer) -> tuple[int, tuple[int, ...]]:
    """(the token that ends the thinking, the tokens it may follow: the end of a line that claims "yes")."""
    closing = tokenizer.encode(CLOSE)
    ends = {verdict: tokenizer.encode(f"1: {verdict}\n")[-1] for verdict in VERDICTS}
    if len(closing) != 1 or ends[YES] in (ends[TOO_SMALL], ends[TOO_BIG]):
        raise ValueError(f"the tokenizer splits {CLOSE!r} or the verdicts; train it with symbols()")
    return closing[0], (ends[YES],)
