# SPDX-License-Identifier: Apache-2.0
"""The exact value of a sum, difference or product of whole numbers that a model wrote. Nothing is ever evaluated.

    expression = product, then any number of + product or - product
    product    = factor, then any number of * factor
    factor     = a number, or ( expression )

rollouts -> REWARDS, for answers of the Countdown task. Length, digits and depth are bounded, so that no text takes more
than microseconds.
Deliberately not here: whether the numbers may be used (task.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LONGEST = 200  # characters
_TOKEN = re.compile(r"\s*(?:([0-9]{1,9})(?![0-9])|([-+*()]))")


def evaluate(text: str) -> tuple[int, tuple[int, ...]] | None:
    """(value, the numbers in it from left to right); None if `text` is no such expression."""
    text = text.strip()
    if len(text) > LONGEST or not text.isascii():
        return None
    tokens, place = [], 0
    while place < len(text):
        if (match := _TOKEN.match(text, place)) is None:
            return None
        tokens.append(match[1] or match[2])
        place = match.end()
    try:
        value, end = _sum(tokens, 0)
    except (ValueError, IndexError):
        return None
    if end != len(tokens):
        return None
    return value, tuple(int(token) for token in tokens if token.isdigit())


def _sum(tokens: Sequence[str], place: int) -> tuple[int, int]:
    """(value, place behind it) of an expression at `place`. ValueError or IndexError where none is."""
    value, place = _product(tokens, place)
    while place < len(tokens) and tokens[place] in "+-":
        sign = 1 if tokens[place] == "+" else -1
        other, place = _product(tokens, place + 1)
        value += sign * other
    return value, place


def _product(tokens: Sequence[str], place: int) -> tuple[int, int]:
    value, place = _factor(tokens, place)
    while place < len(tokens) and tokens[place] == "*":
        other, place = _factor(tokens, place + 1)
        value *= other
    return value, place


def _factor(tokens: Sequence[str], place: int) -> tuple[int, int]:
    if tokens[place] != "(":
        return int(tokens[place]), place + 1  # ValueError of a sign
    value, place = _sum(tokens, place + 1)
    if tokens[place] != ")":
        raise ValueError("a parenthesis that never closes")
    return value, place + 1
