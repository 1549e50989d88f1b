# SPDX-License-Identifier: Apache-2.0
"""What can be told of an answer before a worker is asked: that it is too costly to compare, or right by its text.

Where: rollouts -> rewards, before the verifier's workers. Host only.
Deliberately not here: the workers (verifier.py), exact numbers (answers.py), notations (notation.py, pairing.py).
"""

from __future__ import annotations

import re

from t1jax.rewards import answers, notation, pairing
from t1jax.rewards.answers import RIGHT, UNSCORABLE, WRONG, Outcome

Pair = tuple[str, str]  # answer, gold
AS_TEXT = "as text: math-verify cannot read the gold"

# Answers that take for ever or all memory are not asked: each would cost a deadline. No gold of MATH is near these.
_LONGEST = 1500  # characters
_DEEPEST = 10  # braces and brackets within each other: nested fractions take twice the time a level
_MOST_ITEMS = 200  # commas and row ends
_TALLEST = 10**6  # exponent of an integer
_HUGE = re.compile(
    r"[0-9]{5,}[)}\s]*!"  # the factorial of 10000 and more
    r"|![)}\s]+!"  # a factorial of a factorial
    r"|[0-9)}]\s*\^\s*\{?[-+(\s]*[0-9]{7,}"  # an exponent of more than _TALLEST
    r"|(?:[0-9]\s*\^\s*[{(\s]*){3}[0-9]"  # 2^2^2^2
    r"|(?:\w\s*\^\s*[{(\s]*){6}"  # x^x^x^x^x^x^
)
_TOWER = re.compile(r"[0-9]\s*\^\s*[{(\s]*([0-9]+)\s*\^\s*[{(\s]*([0-9]+)")  # 9^{9^9}


def intractable(text: str) -> bool:
    """Whether `text` is too long, too deep or writes too large a number to be compared in reasonable time."""
    if len(text) > _LONGEST or text.count(",") + text.count("\\\\") > _MOST_ITEMS:
        return True
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, abs(depth))
    if deepest > _DEEPEST or _HUGE.search(text):
        return True
    return any(len(top) > 2 or int(base) ** int(top) > _TALLEST for base, top in _TOWER.findall(text))


def by_text(answer: str, gold: str) -> bool | Pair:
    """Whether `answer` is `gold` once both are in one notation; else the pair in it, for math-verify."""
    pair = notation.rewrite(answer), notation.rewrite(gold)
    if (equal := answers.quick(*pair)) is not None:
        return equal
    found = pairing.decide(*pair)
    equal = found if isinstance(found, bool) else answers.quick(*found)
    return found if equal is None else equal


def as_text(answer: str, gold: str) -> tuple[Outcome, str]:
    """The verdict by the text alone; nothing can be judged by an empty gold."""
    if not gold:
        return UNSCORABLE, "there is no gold"
    return RIGHT if notation.plain(answer) == notation.plain(gold) else WRONG, AS_TEXT
