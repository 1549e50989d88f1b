# SPDX-License-Identifier: Apache-2.0
"""Conventions that need an answer and its gold together: a verdict, or both rewritten in a comparable form.

rollouts -> REWARDS, after both are in one notation (notation.py) and before math-verify; host only.
RULES is an ordered table: the first rule that applies decides. A rule never makes a hedged answer right: two choices,
two boxes or two values never count as one.
Deliberately not here: rules for one text alone (notation.py), numbers (answers.py), algebra (worker.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from t1jax.rewards import answers, notation, sets

Pair = tuple[str, str]  # answer, gold


class Rule(NamedTuple):
    """A convention: its name, who writes or reports it, and what it makes of (answer, gold): a verdict, the pair in
    another form, or None if the rule is not made for it."""

    name: str
    source: str
    apply: Callable[[str, str], bool | Pair | None]


def decide(answer: str, gold: str) -> bool | Pair:
    """Whether `answer` is `gold`, both as notation.rewrite gives them; else the pair to ask math-verify about."""
    for rule in RULES:
        found = rule.apply(answer, gold)
        if isinstance(found, bool):
            return found
        answer, gold = found or (answer, gold)
    return answer, gold


# Choices

_CHOICE = re.compile(
    r"(?:\\(?:text|textbf|textrm|mathrm)\{\s*)?"  # \textbf{(E) }
    r"(?:\(([A-J])\)|\[([A-J])\]|([A-J])[.):](?= |\\|\}|\Z))[ .:]*(\})?[ .:~]*(.*)"
)
_ANOTHER = re.compile(r"\([A-J]\)|\b[A-J][.):](?: |\Z)|\A(?:or|and|not|nor)\b|\A[,;/]|\b(?:or|and|not|nor) [A-J]\b")
_LETTERS = re.compile(r"[A-H](?:[,;/&]*[A-H])+")
_YES_NO = re.compile(r"(?i)(yes|no|true|false)\b")
_SAME = {"true": "yes", "false": "no"}  # a file's boolean answers a question


def _choice(text: str) -> tuple[str, str] | None:
    """(letter, what stands behind it) of a labelled choice; None if it is none, or there is a second label."""
    match = _CHOICE.fullmatch(text)
    if match is None:
        return None
    rest = match[5].strip()
    if "{" in text[: match.start(5)] and not match[4]:  # \text{(E) 12}
        if not rest.endswith("}"):
            return None
        rest = rest[:-1].strip()
    factor = not text.startswith("\\") and rest[:1] in tuple("^_(+-*/=")  # (A)^2
    if factor or _ANOTHER.search(re.sub(r"\\text(?:bf)?\s*\{([^{}]*)\}", r" \1 ", rest).strip()):
        return None
    return match[1] or match[2] or match[3], rest


def _labelled_choice(answer: str, gold: str) -> bool | Pair | None:
    """(E) 12 is E, and C. 12 is C, and 12: a label where both have one, else what stands behind it."""
    ours, right = _choice(answer), _choice(gold)
    letter, key = (re.fullmatch(r"(?:\\text\{)?([A-J])\}?", answers.tidy(text)) for text in (answer, gold))
    if ours and (key or right):
        label = key[1] if key else right[0] if right else ""
        if ours[0] != label:
            return False
        return (ours[1], right[1]) if right and right[1] and ours[1] else True
    if right and letter:
        return letter[1] == right[0]
    if right and right[1]:
        return answer, notation.rewrite(right[1])
    if ours and ours[1] and not _choice(ours[1]):
        return notation.rewrite(ours[1]), gold
    return None


def _several_choices(answer: str, gold: str) -> bool | None:
    """B, D and "B and D" and DB are BD."""
    chosen = []
    for text in (answer, gold):
        text = re.sub(r"\\text(?:bf|rm)?\b|[{}$.\s]|\\[,;: ]", "", re.sub(r"\band\b", ",", answers.tidy(text)))
        letters = re.findall("[A-H]", text)
        if not _LETTERS.fullmatch(text) or len(set(letters)) < len(letters):
            return None
        chosen.append(set(letters))
    return chosen[0] == chosen[1] or None


def _yes_or_no(answer: str, gold: str) -> bool | None:
    """Yes or True, also where a sentence begins with it, unless it says the other word too."""
    words = [notation.plain(text) for text in (answer, gold)]
    if not re.fullmatch("yes|no|true|false", words[1]):
        return None
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", answer).strip()
    match = _YES_NO.match(text)
    if match is None or not re.match(r"\s*(?:[,.;:!]|\Z)", text[match.end() :]):
        return None
    said = {word.casefold() for word in re.findall(r"(?i)\b(?:yes|no|true|false|maybe|either|or)\b", text)}
    said, right = {_SAME.get(word, word) for word in said}, _SAME.get(words[1], words[1])
    if match[1].casefold() in ("yes", "true") and re.search(r"(?i)\bnot\b|n't\b", text):
        return None
    return right in said if len(said) == 1 else False


# Units

_MEASURES = {"mm", "cm", "m", "in", "ft", "yd", "mi", "km", "mg", "g", "kg", "oz", "lb", "ton", "ml", "l", "s", "sec",
             "min", "hr", "day", "week", "month", "year", "$", "cent", "€", "£", "¥", "₹"}  # fmt: skip
_UNIT_AT_END = re.compile(
    r"(?:\\(?:text|textrm|textnormal|mathrm|mbox)\s*\{[^{}0-9]*\}|(?<=[0-9}]) ?[A-Za-z]{2}[A-Za-z. ]*)"
    r"(?:\^\{?[23]\}?)?\Z"
)
_RADIANS = re.compile(r"(.+?)\s*\\(?:text|mathrm)\{\s*(?:rad|radians?)\s*\}|(.+?) rad(?:ians?)?")
_DEGREES = re.compile(r"(.+?)\s*(?:\^\s*\{?\\circ\}?|\^?\\degree|°|\\text\{\s*deg(?:rees?)?\s*\}|degrees?)")


def _unit(text: str) -> str | None:
    """The unit of measurement at the end of a text, without its power; None without one, or if it is not known."""
    match = _UNIT_AT_END.search(text)
    name = (answers.unit(match[0].lstrip()) or "").partition("^")[0] if match else ""
    if text.startswith(("€", "£", "¥", "₹", "\\$")) or (text.startswith("$") and text.count("$") == 1):
        name = text.removeprefix("\\")[0]
    return name if name in _MEASURES else None


def _other_unit(answer: str, gold: str) -> bool | None:
    """10 inches are not 10 cm. An answer without a unit, or with one that is not known, is asked without it."""
    ours, right = _unit(answer), _unit(gold)
    return False if ours and right and ours != right else None


def _angle(answer: str, gold: str) -> Pair | None:
    """Degrees in radians where the other side is said to be in radians."""
    for texts in ((answer, gold), (gold, answer)):
        radians, degrees = _RADIANS.fullmatch(texts[0]), _DEGREES.fullmatch(texts[1])
        if radians and degrees:
            both = (radians[1] or radians[2]), f"\\frac{{({degrees[1]}) \\pi}}{{180}}"
            return both if texts[0] is answer else (both[1], both[0])
    return None


# Numbers

_BASED = re.compile(
    r"(?:[A-Za-z]\s*=\s*)?\(?([0-9][0-9A-Z]*)\)?\s*_\s*\{?\s*([0-9]{1,2})\s*\}?(?:\s*\\text\{[^{}]*\})?"
)
_TIME = re.compile(
    r"(?:\\text\{)?([0-9]{1,2}):([0-5][0-9])\s*(?:\\text\{)?\s*(?:([ap])\.?\s*m\.?)?\s*\}?", re.IGNORECASE
)
_PROGRAM = re.compile(r"([0-9]+)[eE]([-+][0-9])")
_BARE_E = re.compile(r"(?<![A-Za-z\\])e(?![A-Za-z])")


def _value(text: str) -> tuple[int, str] | None:
    """(value, digits) of 110_2."""
    match = _BASED.fullmatch(text)
    if match is None or not 2 <= int(match[2]) <= 36 or len(match[1]) > answers.LONGEST_NUMBER:
        return None
    try:
        return int(match[1], int(match[2])), match[1]
    except ValueError:  # a digit that the base does not have
        return None


def _base(answer: str, gold: str) -> bool | Pair | None:
    """110_2 is 6, and not 110, nor 110_3. The digits of a gold alone are right: the question says the base."""
    ours, right = _value(answer), _value(gold)
    if ours and right:
        return ours[0] == right[0]
    if right and answer.isdecimal():
        return True if answer == right[1] else (answer, str(right[0]))
    return (str(ours[0]), gold) if ours and gold.isdecimal() else None


def _time_of_day(answer: str, gold: str) -> bool | None:
    """2:00 is not 14:00, and 2:00 p.m. is; without a.m. or p.m. and with minutes from 10 on, 6:18 may be a ratio."""
    ours, right = _TIME.fullmatch(answer), _TIME.fullmatch(gold)
    if not ours or not right or not (ours[3] or right[3] or "0" in (ours[2][0], right[2][0])):
        return None
    if ours[2] != right[2]:
        return False
    hours = [int(m[1]) % 12 + 12 * (m[3].lower() == "p") if m[3] else int(m[1]) for m in (ours, right)]
    same_reading = int(ours[1]) == int(right[1]) and not (ours[3] and right[3])
    return hours[0] == hours[1] or same_reading


def _short_scientific(answer: str, gold: str) -> Pair | None:
    """3e-8 is 3 \\times 10^{-8} where the other side has no e of its own."""
    texts = [answer, gold]
    for place, other in ((0, gold), (1, answer)):
        match = _PROGRAM.fullmatch(texts[place])
        if match and not _BARE_E.search(other):
            texts[place] = f"{match[1]} \\times 10^{{{int(match[2])}}}"
    return None if texts == [answer, gold] else (texts[0], texts[1])


# Sets and vectors

_MATRIX = re.compile(r"\\begin\{[pbvB]?matrix\}(.*)\\end\{[pbvB]?matrix\}", re.DOTALL)
_INTERVAL = re.compile(r"[(\[].*,.*[)\]]|[A-Za-z]\s*\\in\b.*", re.DOTALL)


def _vector(answer: str, gold: str) -> Pair | None:
    """A matrix of one row or column as (a,b) where the other side is written so."""
    texts = [answer, gold]
    for place, other in ((0, gold), (1, answer)):
        match = _MATRIX.fullmatch(texts[place])
        if match and other.startswith("(") and other.endswith(")") and "matrix" not in other:
            rows = [row.strip() for row in match[1].strip().removesuffix("\\\\").split("\\\\")]
            entries = rows if len(rows) > 1 else rows[0].split("&")
            if not any("&" in entry for entry in entries):
                texts[place] = f"({','.join(entries)})"
    return None if texts == [answer, gold] else (texts[0], texts[1])


def _inequality(answer: str, gold: str) -> Pair | None:
    """An inequality in one variable as an interval where the other side is one."""
    for place, (text, other) in enumerate(((answer, gold), (gold, answer))):
        if _INTERVAL.fullmatch(other) and (found := sets.intervals(text)) is not None:
            return (found, gold) if place == 0 else (answer, found)
    return None


RULES = (
    Rule("labelled choices", "NeMo-Gym issue 1844; AMC", _labelled_choice),
    Rule("several choices", "multiple choice with several right ones", _several_choices),
    Rule("yes or no", "OlympiadBench, NuminaMath; booleans of JSON", _yes_or_no),
    Rule("other units", "SI; Math-Verify drops units", _other_unit),
    Rule("degrees and radians", "SI", _angle),
    Rule("bases", "MATH: 110_2; Math-Verify drops the base", _base),
    Rule("times of day", "Math-Verify issue 14 reads them as ratios", _time_of_day),
    Rule("short scientific notation", "C, Python, JSON", _short_scientific),
    Rule("vectors", "OlympiadBench, MATH: a column or a tuple", _vector),
    Rule("inequalities and intervals", "OpenThoughts-Agent issue 129", _inequality),
)
