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

import numpy as np

_BROKEN = "\ufffd\u2047"  # how decoders write bytes that are no text, and tokens that they do not know
_SCRIPTS = ("LATIN ", "GREEK ")
_SCRIPT_FREE = "MNPSZ"  # first letters of the categories: accents, digits, punctuation, symbols, spaces
_BITS, _FACTOR = 16, 0x9E3779B1  # of a hash; 2^32 over the golden ratio, odd


def repetitive(text: str, length: int, count: int) -> bool:
    """Whether some substring of `length` characters occurs at least `count` times, overlaps counted.

    No substring occurs more often than its hash, so only those with a common hash are counted, as text.
    """
    if len(text) - length + 1 < count:
        return False
    hashes = _hashes(text, length)
    common = np.bincount(hashes, minlength=1 << _BITS) >= count
    seen: dict[str, int] = {}
    for start in np.flatnonzero(common[hashes]).tolist():
        substring = text[start : start + length]
        seen[substring] = seen.get(substring, 0) + 1
        if seen[substring] >= count:
            return True
    return False


def garbled(text: str, share: float) -> bool:
    """Whether more than `share` of the characters are broken or of a script that maths in English does not use."""
    points, counts = np.unique(_code_points(text), return_counts=True)
    strange = sum(n for point, n in zip(points.tolist(), counts.tolist(), strict=True) if not _expected(chr(point)))
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


def _hashes(text: str, length: int) -> np.ndarray:
    """uint32[len(text) - length + 1]: of each substring of `length` characters, 1 or more, a hash of _BITS bits.

    Polynomial, modulo 2^32: of two neighbours x and y, hash(xy) = hash(x) * _FACTOR^len(y) + hash(y). So substrings of
    1, 2, 4, ... characters are joined to those of `length`.
    """
    joined = np.zeros(len(text) + 1, np.uint32)  # of the `covered` characters from each place on
    part = _code_points(text) * np.uint32(_FACTOR)  # of the `size` characters from each place on
    covered, size, power = 0, 1, _FACTOR
    while True:
        if length & size:
            joined = joined[: len(text) - covered - size + 1] * np.uint32(power) + part[covered:]
            covered += size
        if covered == length:
            return joined >> (32 - _BITS)
        part = part[:-size] * np.uint32(power) + part[size:]
        size, power = 2 * size, power * power % 2**32


def _code_points(text: str) -> np.ndarray:
    """uint32[len(text)]; halves of UTF-16 pairs are characters too."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
