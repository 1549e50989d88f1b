# SPDX-License-Identifier: Apache-2.0
"""Detects duplicate problems by normalised text.

Used while files are read: duplicate rows, training problems that are also held out, cold-start chains that answer a
held-out problem.
Deliberately not here: paraphrases, changed numbers, translations: nothing here understands a problem.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

# How a formula is set, not what it says: spaces, sizes of brackets and fractions, the signs around a formula (\$ is
# one of them, for people write $20, \$20 and $\$20$).
_NO_SPACE = re.compile(r"\\!|\\(?:left|right)(?![a-z])\.?")
_SPACE = re.compile(r"\\[,;:>() \[\]$]|\\(?:qquad|quad|displaystyle)(?![a-z])|[$~\s]+")
_ESCAPED = re.compile(r"\\(%)|\{(,)\}")  # 50\% and 1{,}000
_FRACTION = re.compile(r"\\[dt]frac(?![a-z])")
_BESIDE_SIGN = re.compile(r" ?([^\w ]) ?")
BEGINNING = 24  # normalised characters by which a problem inside a longer text is looked up


def normalise(text: str, fold: bool = True) -> str:
    """`text` in NFKC and, to `fold`, small letters, without what only sets it; a space stays between two words."""
    text = unicodedata.normalize("NFKC", text)
    text = text.casefold() if fold else text
    text = _ESCAPED.sub(r"\1\2", _FRACTION.sub(r"\\frac", _NO_SPACE.sub("", text)))
    text = " ".join(_SPACE.sub(" ", text).split())
    return _BESIDE_SIGN.sub(r"\1", text)


class Known:
    """Texts of problems that must not be met elsewhere."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = {normalise(text) for text in texts}
        self._by_beginning: defaultdict[str, list[str]] = defaultdict(list)
        for text in self._texts:
            if len(text) >= BEGINNING:
                self._by_beginning[text[:BEGINNING]].append(text)

    def same(self, text: str) -> bool:
        """Whether `text` is one of them."""
        return normalise(text) in self._texts

    def inside(self, text: str) -> bool:
        """Whether `text` is or holds one of them, as where words surround it; a very short one must be all of it."""
        text = normalise(text)
        return text in self._texts or any(
            text.startswith(known, start)
            for start in range(len(text) - BEGINNING + 1)
            for known in self._by_beginning.get(text[start : start + BEGINNING], ())
        )
