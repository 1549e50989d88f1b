# SPDX-License-Identifier: Apache-2.0
"""Detects degenerate responses. Each rule is a predicate on the text.

rollouts -> REWARDS. T1 gives such responses a reward of -1, otherwise the length of responses explodes. The third
rule, overlong, needs no text: the sampler knows whether a response ended with a stop token.
Source: T1 (arXiv 2501.11651) section 2 for the rules; THUDM/TreeRL for the length and count of a repetition.
Deliberately not here: the size of the penalty and where it enters (advantages.py), a perplexity filter.
"""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter

_BROKEN = "\ufffd\u2047"  # how decoders write bytes that are no text, and tokens that they do not know
_SCRIPTS = ("LATIN ", "GREEK ")
_SCRIPT_FREE = "MNPSZ"  # first letters of the categories: accents, digits, punctuation, symbols, spaces


def repetitive(text: str, length: int, count: int) -> bool:
    """Whether some substring of `length` characters occurs at least `count` times, overlaps counted."""
    starts = len(text) - length + 1
    if starts < count:
        return False
    return max(Counter(text[i : i + length] for i in range(starts)).values()) >= count


def garbled(text: str, share: float) -> bool:
    """Whether more than `share` of the characters are broken or of a script that maths in English does not use."""
    if text.isascii() and text.isprintable():
        return False
    strange = sum(not _expected(character) for character in text)
    return strange > share * len(text)


@functools.lru_cache(maxsize=65536)
def _expected(character: str) -> bool:
    """Latin, Greek, digits, punctuation, symbols, spaces and line ends."""
    if character in "\n\t\r":
        return True
    if character in _BROKEN:
        return False
    category = unicodedata.category(character)
    if category[0] in _SCRIPT_FREE:
        return True
    return any(script in unicodedata.name(character, "") for script in _SCRIPTS)
