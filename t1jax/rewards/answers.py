# SPDX-License-Identifier: Apache-2.0
"""Find the answer in a response, and compare it with what is right.

Where: rollouts -> rewards. Host only: nothing here imports jax.
Deliberately not here: penalties for the form of a response (penalties.py), a response as a whole (score.py).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence


class Outcome(enum.IntEnum):
    """What the check of the task says about a response."""

    RIGHT = 1
    WRONG = 0
    UNSCORABLE = -1


RIGHT, WRONG, UNSCORABLE = Outcome.RIGHT, Outcome.WRONG, Outcome.UNSCORABLE

BOX = "\\boxed{"
_SUM = re.compile(r"\s*([0-9]{1,9})\s*\+\s*([0-9]{1,9})\s*")


def last_box(text: str) -> str | None:
    """What stands in the last \\boxed{...} of `text`, braces matched; None if there is none or it never closes.

    An escaped brace (\\{ or \\}) is text, not a brace.
    """
    start = text.rfind(BOX)
    if start < 0:
        return None
    first = start + len(BOX)
    depth = 1
    position = first
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return text[first:position]
        position += 1
    return None


def compare(answer: str, numbers: Sequence[int], target: int) -> bool:
    """Whether `answer` reads a+b with a and b two different members of `numbers` and a + b = `target`."""
    match = _SUM.fullmatch(answer)
    if match is None:
        return False
    left, right = int(match[1]), int(match[2])
    return left != right and left in numbers and right in numbers and left + right == target
