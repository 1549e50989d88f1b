# SPDX-License-Identifier: Apache-2.0
"""Finds the answer in a response, and compares it with the reference answer.

Where: rollouts -> rewards. Host only: nothing here imports jax. Everything here takes time linear in the text.
Source: the last box by brace matching, because math-verify reads "\\boxed{6}. Wait ... \\boxed{5}" as the set {5, 6}.
Deliberately not here: answers that only algebra can compare (verifier.py asks math-verify, in other processes),
penalties for the form of a response (penalties.py), a response as a whole (score.py).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple


class Outcome(enum.IntEnum):
    """What the check of the task says about a response."""

    RIGHT = 1
    WRONG = 0
    UNSCORABLE = -1
    SCORED = 2  # there is a reward, and no right or wrong (functions.py)


RIGHT, WRONG, UNSCORABLE, SCORED = Outcome.RIGHT, Outcome.WRONG, Outcome.UNSCORABLE, Outcome.SCORED

BOX = "\\boxed{"
_SUM = re.compile(r"\s*([0-9]{1,9})\s*\+\s*([0-9]{1,9})\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # what is escaped is no brace
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|([-+]?[0-9][^\s{}$\\]*))")  # \boxed{5}, \boxed {5}, \boxed 5

# What does not change the meaning of an answer. (?<!\\) keeps the row ends of matrices, \\, whole.
_SIZES = re.compile(r"\\(?:(?:left|right)\.?|[bB]igg?[lr]?)(?![A-Za-z])")
_FRAC = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_COMMA = re.compile(r"(?<=[0-9])(?: ?\{,\s*\}|,?\\!|,\\,|\\[,;: ])(?=[0-9]{3}(?![0-9]))")  # 1{,}000 1,\!000 1\,000
_TIGHT = re.compile(r"(?<!\\)\\!")
_SPACE = re.compile(r"(?<!\\)\\(?:[,;: ]|q?quad(?![A-Za-z]))|~|\s+")
_OPERATOR = re.compile(r" ?([-+*/=<>]) ?")  # math-verify takes the end of "a + b + c" for units, not that of "a+b+c"
_WRAPPED = re.compile(
    r"\$\$([^$]+)\$\$|\$([^$]+)\$|\\\(((?:(?!\\\)).)+)\\\)|\\\[((?:(?!\\\]).)+)\\\]|\*\*([^*]+)\*\*|\{([^{}]*)\}"
    r"|\\(?:text|textbf|textrm|textnormal|mathrm|mathbf|mbox)\{([^{}]*)\}",
    re.DOTALL,
)
_LISTED = re.compile(r"[0-9], +[0-9]{3}(?![0-9])")  # two numbers: thousands have no space behind the comma
_JOINED = re.compile(  # what stands between boxes that are one answer: a comma, "and" or "or", and no other word
    r"(?=.*?(?:(?<!\\)[,;&]|\b(?:and|or)\b))"
    r"(?:[\s$,;&]|\\[()\[\],;: \\]|\\q?quad(?![A-Za-z])|\\text\{[\s,;]*(?:(?:and|or)[\s,;]*)?\}|\b(?:and|or)\b)*"
    r"(?:[A-Za-z](?:_\{?\w+\}?)?\s*=\s*[\s$]*)?",
    re.DOTALL,
)
_FARTHEST, _MOST_BOXES = 80, 50  # characters between such boxes; boxes of one answer
_LOOSE_SPACE = re.compile(r" (?![0-9A-Za-z.])|(?<![0-9A-Za-z.]) ")

_DECIMAL = re.compile(r"-?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?")
_TERM = re.compile(r"[-(]*[0-9][0-9.,]*\)?(?: ?[-+*/] ?\(?[0-9][0-9.,]*\)?)*")
_DIGITS = re.compile(r"[-+]?[0-9]+")
_CHOICE = re.compile(r"\(([A-Z])\)|([A-Z])")
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)(?P<currency>\\?\$|[€£¥₹])?(?P<sign_too>-?)"
    r"(?:(?:(?P<whole>[0-9]+) ?)?\\frac ?(?:\{(?P<top>[-+]?[0-9]+)\}|(?P<top_digit>[0-9])) ?"
    r"(?:\{(?P<bottom>[0-9]+)\}|(?P<bottom_digit>[0-9]))"
    r"|(?:(?P<whole_too>[0-9]+) )?(?P<over>[0-9]+)/(?P<under>[0-9]+)"
    r"|(?P<decimal>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+))"
    r"(?P<unit>.*)"
)
_UNIT = re.compile(
    r"(?:\\(?:text|textrm|textnormal|mathrm|mbox)\{(?P<text>[^{}0-9]*)\}| ?(?P<plain>[A-Za-z]{2}[A-Za-z. ]*))"
    r"(?:\^(?:(?P<power>[23])|\{(?P<power_too>[23])\}))?"
)
_DEGREES = ("^\\circ", "^{\\circ}", "°", "\\degree", "^\\degree")
_UNITS = {
    name: names.split()[0]
    for names in (
        "mm millimeter millimetre|cm centimeter centimetre|m meter metre|km kilometer kilometre|in inch inches"
        "|ft foot feet|yd yard|mi mile|mg milligram|g gram|kg kilogram|oz ounce|lb lbs pound|ton"
        "|ml milliliter millilitre|l liter litre|s sec second|min minute|hr hour|day|week|month|year|mph"
        "|$ dollar|cent|% percent|deg degree|unit|people|student|ways"
    ).split("|")
    for name in names.split()
}
LONGEST_NUMBER = 200  # characters, so that the exact arithmetic stays small
SENTINELS = frozenset({"proof", "notfound", "null", "nan", "n/a"})  # what NuminaMath-1.5 and tables write for no answer
_ROUNDING = Fraction(1, 10**5)  # math-verify rounds decimals: numbers nearer than this are left to it


def last_box(text: str) -> str | None:
    """What stands in the last \\boxed{...} of `text`, braces matched; None if there is none or it never closes.

    An escaped brace (\\{ or \\}) is text, not a brace.
    """
    start = text.rfind(BOX)
    return None if start < 0 else braced(text, start + len(BOX))


def braced(text: str, first: int) -> str | None:
    """The text from `first`, behind an opening brace, to the brace that closes it; None if none does."""
    depth = 1
    for brace in _BRACE.finditer(text, first):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[first : brace.start()]
    return None


def compare(answer: str, numbers: Sequence[int], target: int) -> bool:
    """Whether `answer` reads a+b with a and b two different members of `numbers` and a + b = `target`."""
    match = _SUM.fullmatch(answer)
    if match is None:
        return False
    left, right = int(match[1]), int(match[2])
    return left != right and left in numbers and right in numbers and left + right == target


def final_answer(response: str) -> str | None:
    """What the last box of `response` holds, without a box its last <answer>...</answer>, without either None: wrong.

    \\boxed{5}, \\fbox{5} and \\boxed 5 are boxes; "\\boxed" without a brace or a number behind it is talk. A last
    box, or <answer>, that never closes gives None too. Boxes with nothing but commas, "and" or "or" between them are
    one answer, a list: \\boxed{1} and \\boxed{-2} is 1, -2, and not -2. So hedging in boxes is hedging in one box.
    """
    marks = list(_BOX.finditer(response))
    if marks:
        answer = marks[-1][1] or braced(response, marks[-1].end())
        return None if answer is None else ", ".join([*_before(response, marks, answer), answer])
    start = response.rfind("<answer>")
    end = response.find("</answer>", start)
    return None if start < 0 or end < 0 else response[start + len("<answer>") : end].strip()


def loose(response: str) -> tuple[str, ...]:
    """What a lenient reader may take for the answer of a response without a box: its last term of numbers, last number.

    Nothing is rewarded for it: it tells whether a gain is in being right or in writing boxes.
    """
    terms = [match[0].strip(" .,") for match in _TERM.finditer(response)]
    joined = [term for term in terms if not _DECIMAL.fullmatch(term)]
    numbers = _DECIMAL.findall(response)
    return tuple(found[-1] for found in (joined, numbers) if found)


def _before(response: str, marks: list[re.Match[str]], last: str) -> list[str]:
    """What the boxes hold that are one answer with the last one, without repetitions."""
    group, start = [last], marks[-1].start()
    for mark in marks[-2 : -_MOST_BOXES - 1 : -1]:
        inside = mark[1] or braced(response, mark.end())
        end = mark.end() + (0 if mark[1] else len(inside or "") + 1)
        if inside is None or not 0 <= start - end <= _FARTHEST or not _JOINED.fullmatch(response, end, start):
            break
        if not any(quick(inside, other) for other in group):
            group.insert(0, inside)
        start = mark.start()
    return group[:-1]


def boxes(text: str) -> list[tuple[int, int, str]]:
    """(start, end, what it holds) of each box of `text` that closes, as `final_answer` finds them."""
    closing: dict[int, int] = {}  # place of an opening brace -> of the one that closes it
    opened: list[int] = []
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif brace[0] == "}" and opened:
            closing[opened.pop()] = brace.start()
    found = []
    for match in _BOX.finditer(text):
        if match[1]:
            found.append((match.start(), match.end(), match[1]))
        elif (end := closing.get(match.end() - 1)) is not None:
            found.append((match.start(), end + 1, text[match.end() : end]))
    return found


def tidy(text: str) -> str:
    """`text` without what carries no meaning: $ or \\text{} around it, \\left, \\dfrac, thin spaces, a full stop."""
    text = _FRAC.sub(r"\\frac", _SIZES.sub("", text.replace("\u2212", "-")))
    text = _OPERATOR.sub(r"\1", _SPACE.sub(" ", _TIGHT.sub("", _COMMA.sub("", text)))).strip()
    for _ in range(4):  # one inside the other, as in $\text{(A)}.$
        if text.endswith((".", ",", ";")) and not text.endswith(".."):
            text = text[:-1].rstrip()
        if (match := _WRAPPED.fullmatch(text)) is None:
            break
        text = match[match.lastindex or 0].strip()
    return text


class _Number(NamedTuple):
    value: Fraction
    unit: str | None
    grouped: bool  # written with commas, so that 1,000 could also be a list


def quick(answer: str, gold: str) -> bool | None:
    """Whether `answer` is `gold`, where text and exact arithmetic can tell; None where math-verify must.

    Equal text; choices such as (B); integers, decimals, fractions, mixed numbers, with a percent sign, a currency or a
    unit of a short list. It says False only of numbers that are clearly apart and of different choices.
    """
    tidied = tidy(answer), tidy(gold)
    left, right = (_LOOSE_SPACE.sub("", text) for text in tidied)
    if not left or not right:
        return False if right else None
    if right.casefold() in SENTINELS:
        return False
    if left == right or (left.casefold() == right.casefold() and "\\text" in answer + gold):
        return True
    if (a := _CHOICE.fullmatch(left)) and (b := _CHOICE.fullmatch(right)):
        return (a[1] or a[2]) == (b[1] or b[2])
    if _DIGITS.fullmatch(left) and _DIGITS.fullmatch(right):
        return _plain(left) == _plain(right)
    if any(map(_LISTED.search, tidied)) or (x := _number(left)) is None or (y := _number(right)) is None:
        return None
    return _same(x, y)


def exact(text: str) -> bool:
    """Whether `text` is a number or a choice, which `quick` compares by value."""
    text = _LOOSE_SPACE.sub("", tidy(text))
    return bool(_CHOICE.fullmatch(text) or _DIGITS.fullmatch(text) or _number(text))


def is_sentinel(gold: str) -> bool:
    """Whether a gold says that there is none."""
    return len(gold) <= 20 and _LOOSE_SPACE.sub("", tidy(gold)).casefold() in SENTINELS


def _plain(digits: str) -> str:
    """An integer of any length without its plus sign and its leading zeros."""
    magnitude = digits.lstrip("+-").lstrip("0") or "0"
    return f"-{magnitude}" if digits[0] == "-" and magnitude != "0" else magnitude


def _same(x: _Number, y: _Number) -> bool | None:
    """Whether two numbers are equal; None where it depends on how percent, units or commas are meant."""
    if x.grouped and y.grouped and x.value != y.value:
        return None
    if (x.unit == "%") != (y.unit == "%"):
        share, other = (x, y) if x.unit == "%" else (y, x)
        if other.unit is not None:
            return None
        if share.value / 100 == other.value:
            return True
        near = min(abs(share.value / 100 - other.value), abs(share.value - other.value)) < _ROUNDING
    else:
        if x.unit is not None and y.unit is not None and x.unit != y.unit:
            return None
        if x.value == y.value:
            return True
        near = abs(x.value - y.value) < _ROUNDING
    return None if near else False


def _number(text: str) -> _Number | None:
    """The number that `text` writes; None if it is something else, too long, or its unit is not in the list."""
    match = _NUMBER.fullmatch(text) if len(text) <= LONGEST_NUMBER else None
    if match is None:
        return None
    name = unit(match["unit"])
    if name == "" or (name and match["currency"]) or (match["sign"] and match["sign_too"]):
        return None
    if decimal := match["decimal"]:
        value = Fraction(decimal.replace(",", ""))
    else:
        whole = match["whole"] or match["whole_too"]
        top = match["top"] or match["top_digit"] or match["over"]
        bottom = int(match["bottom"] or match["bottom_digit"] or match["under"])
        if bottom == 0 or (whole and top[0] in "+-"):
            return None
        value = int(whole or 0) + Fraction(int(top), bottom)
    negative = "-" in (match["sign"], match["sign_too"])
    name = (match["currency"] or "").removeprefix("\\") or name
    return _Number(-value if negative else value, name, "," in (decimal or ""))


def unit(text: str) -> str | None:
    """The usual name of a unit; None if `text` is empty; "" if it is no unit that is known."""
    if not text:
        return None
    if text.strip() in ("%", "\\%"):
        return "%"
    if text in _DEGREES:
        return "deg"
    match = _UNIT.fullmatch(text)
    if match is None:
        return ""
    words = (match["text"] if match["text"] is not None else match["plain"]).lower().replace(".", "").split()
    power = match["power"] or match["power_too"]
    if len(words) == 2 and words[0] in ("square", "sq", "cubic", "cu") and not power:
        power = "2" if words[0][0] == "s" else "3"
        words = words[1:]
    if len(words) != 1:
        return ""
    name = _UNITS.get(words[0]) or _UNITS.get(words[0].removesuffix("s"), "")
    return f"{name}^{power}" if name and power else name
