# SPDX-License-Identifier: Apache-2.0
"""Numbers and sums of money as people and programs write them, as LaTeX: rules of notation.py's table.

Where: rollouts -> rewards; host only. Deliberately not here: their values (answers.py).
"""

from __future__ import annotations

import re
from decimal import Decimal

from t1jax.rewards import answers

_REPEATS = re.compile(r"(?<![0-9.])([0-9]*)\.([0-9]*)\\(?:overline|bar|dot)\s*(?:\{([0-9]+)\}|([0-9]))(?![0-9.])")
_DOTTED = re.compile(r"(?<![0-9.])([0-9]*)\.([0-9]*)\\dot\{?([0-9])\}?([0-9]*)\\dot\{?([0-9])\}?(?![0-9.])")
_ELLIPSIS = re.compile(r"(?<![0-9.])([0-9]*)\.([0-9]{2,40})(?:\.\.\.|…|\\[lc]?dots)")
_SCIENTIFIC = re.compile(
    r"(?<![\w.\\^])([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)[eE](?:([0-9]{1,3})|\+?(-?[0-9]{2,3})|\+?(-?[0-9]))(?![\w.^])"
)
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
)
_WORDS = {word: value for value, word in enumerate(_ONES.split())}
_TENS = {word: 10 * i for i, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}


def decimal(value: float) -> str:
    """A float without an exponent, 0.00001 for 1e-05, unless it is longer than 21 digits."""
    return f"{Decimal(repr(value)):f}" if 1e-15 < abs(value) < 1e21 else str(value)


def _fraction(whole: str, fixed: str, block: str) -> str:
    """The decimal whole.fixed(block)(block)... as a fraction."""
    bottom = (10 ** len(block) - 1) * 10 ** len(fixed)
    return f"\\frac{{{int(whole + fixed + block) - int((whole + fixed) or 0)}}}{{{bottom}}}"


def recurring(text: str) -> str:
    """The fraction of a recurring decimal: overline, dots, or digits that repeat before an ellipsis."""
    if "." not in text or len(text) > answers.LONGEST_NUMBER:
        return text
    text = _DOTTED.sub(lambda m: _fraction(m[1], m[2], m[3] + m[4] + m[5]), text)
    text = _REPEATS.sub(lambda m: _fraction(m[1], m[2], m[3] or m[4]), text)
    return _ELLIPSIS.sub(_shown_to_repeat, text)


def _shown_to_repeat(match: re.Match[str]) -> str:
    """0.1666...: a block that stands there three times, or that all digits repeat."""
    digits = match[2]
    for size in range(1, len(digits) // 2 + 1):
        block = digits[-size:]
        if digits.endswith(block * 3):
            fixed = digits
            while fixed.endswith(block):
                fixed = fixed[:-size]
            return _fraction(match[1], fixed, block)
        if size > 1 and len(digits) % size == 0 and digits == block * (len(digits) // size):
            return _fraction(match[1], "", block)
    return match[0]


def _power_of_ten(match: re.Match[str]) -> str:
    """3 \\times 10^{8} for 3e8; 3e-8 is left, which may be 3e - 8, but 1e-8 and 3.0e-8 and 3e-08 are not."""
    mantissa, unsigned, long, short = match.groups()
    if short is not None and not (mantissa == "1" or "." in mantissa):
        return match[0]
    return f"{mantissa} \\times 10^{{{int(unsigned or long or short)}}}"


def scientific(text: str) -> str:
    """3 \\times 10^{8} for 3e8."""
    return _SCIENTIFIC.sub(_power_of_ten, text)


def number_words(text: str) -> str:
    """12 for "twelve", 21 for "twenty-one", where nothing else stands."""
    words = re.fullmatch(r"(?:\\text\{)?\s*([A-Za-z]+)(?:[- ]([A-Za-z]+))?\s*\}?", text)
    if words is None:
        return text
    first, second = words[1].lower(), (words[2] or "").lower()
    if first in _TENS and (not second or 0 < _WORDS.get(second, 0) < 10):
        return str(_TENS[first] + _WORDS.get(second, 0))
    return str(_WORDS[first]) if first in _WORDS and not second else text


def list_of_numbers(text: str) -> str:
    """2; 500 for "2, 500": a comma and a space part two numbers, a comma alone parts thousands."""
    return text if re.search(r"[(\[{]", text) else re.sub(r"(?<=[0-9]), +(?=[0-9]{3}(?![0-9]))", ";", text)


_MONEY = {"usd": "\\$", "us dollars": "\\$", "rs": "₹", "inr": "₹", "rupees": "₹", "rupee": "₹", "eur": "€",
          "euro": "€", "euros": "€", "gbp": "£", "jpy": "¥", "yen": "¥", "₹": "₹", "us$": "\\$"}  # fmt: skip
_NAMES = "|".join(re.escape(name) for name in sorted(_MONEY, key=len, reverse=True))
_BEFORE = re.compile(rf"(?i)(?:\\(?:text|mathrm)\{{\s*)?({_NAMES})\.?\s*\}}?\s*(?=[0-9.\\])")
_AFTER = re.compile(rf"(?i)([0-9][0-9,.]*)\s*(?:\\(?:text|mathrm)\{{\s*)?({_NAMES})\.?\s*\}}?")


def money(text: str) -> str:
    """The sign of a currency before the number, for its name before or behind it."""
    text = re.sub(r"\\pounds(?![A-Za-z])\s*", "£", text)
    if (before := _BEFORE.match(text)) is not None:
        return _MONEY[before[1].lower()] + text[before.end() :]
    after = _AFTER.fullmatch(text)
    return _MONEY[after[2].lower()] + after[1] if after else text
