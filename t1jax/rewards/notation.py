# SPDX-License-Identifier: Apache-2.0
"""One notation for answers: what people, programs and papers write, as LaTeX that math-verify reads as it is meant.

    rewrite("2*sqrt(3)/3") == "2*\\sqrt{3}/3"      rewrite("0.\\overline{36}") == "\\frac{36}{99}"

Where: rollouts -> rewards, between what text and numbers can tell (answers.py) and algebra (worker.py); host only. RULES
is a table, in order: each rule is a convention with its source, none is a case, and each looks at one text alone, the
answer's and the gold's alike. docs/models.md prints the table. Everything takes time linear in the text, and a rule
leaves alone what it is not made for.
Deliberately not here: what only two texts together can tell (pairing.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from t1jax.rewards import answers


class Rule(NamedTuple):
    """A convention: its name, who writes or reports it, and what it makes of a text."""

    name: str
    source: str
    apply: Callable[[str], str]


def rewrite(text: str) -> str:
    """An answer in one notation; RULES says how."""
    text = answers.tidy(text)
    for rule in RULES:
        text = rule.apply(text)
    return answers.tidy(text)


def plain(text: str) -> str:
    """`text` as two texts are compared: without spaces, \\text, the case of words and a full stop."""
    text = _TEXT.sub(r"\1", answers.tidy(text).replace("$", ""))
    text = re.sub(r"\{(\w)\}", r"\1", _ANY_SPACE.sub("", text)).rstrip(".,;")
    return re.sub(r"(?<![\\A-Za-z])[A-Za-z]{2,}", lambda word: word[0].casefold(), text)


_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_ANY_SPACE = re.compile(r"(?<!\\)\\[,;:! ]|(?<!\\)\\q?quad(?![A-Za-z])|~|\s+")


def _sub(pattern: str, new: str | Callable[[re.Match[str]], str]) -> Callable[[str], str]:
    compiled = re.compile(pattern)
    return lambda text: compiled.sub(new, text)


def _split(text: str, separator: str = ",") -> list[str]:
    """The parts of `text` between the separators that stand in no bracket."""
    parts, depth, start = [], 0, 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == separator and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]


# Texts around an answer

_PHRASE = re.compile(r"(?i)(?:so |thus |hence )?(?:the |my )?(?:final |correct )?answer(?: is|:)[: ]*(.+)")
_REMARK = re.compile(r"(.*[0-9}]) ?\((?!(?:or|and|not|mod)\b)[A-Za-z]{2,}(?: [A-Za-z]+){0,3}\)")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


def _marked(text: str) -> str:
    """What stands in the boxes or the <answer> of a whole response; boxes that are not one answer stay."""
    marks = len(answers.boxes(text))
    if marks or "<answer>" in text:
        found = answers.final_answer(text)
        if found is not None and (marks < 2 or len(_split(found)) >= marks):
            return answers.tidy(found)
    return text


def _phrase(text: str) -> str:
    """5 for "The answer is 5", where no other word follows."""
    match = _PHRASE.fullmatch(text)
    return match[1] if match and not _WORD.search(match[1]) else text


def _remark(text: str) -> str:
    """9 for "9 (apples)": words in brackets behind a number; not (or ...), (not ...), (mod ...)."""
    match = _REMARK.fullmatch(text)
    return match[1] if match and not re.search(r"\b(?:or|not)\b", text) else text


# Characters

_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_SIGNS = {
    "π": "\\pi ", "∞": "\\infty ", "×": "\\times ", "÷": "\\div ", "·": "\\cdot ", "⋅": "\\cdot ", "±": "\\pm ",
    "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "∈": "\\in ", "∪": "\\cup ", "∩": "\\cap ", "√": "\\sqrt ", "θ": "\\theta ",
    "½": "\\frac{1}{2}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}", "⅓": "\\frac{1}{3}", "⅔": "\\frac{2}{3}",
    "ℝ": "\\mathbb{R}", "\u2013": "-", "\u2009": " ", "\u202f": " ", "∣": "|",
}  # fmt: skip
_CHARACTERS = str.maketrans(_SIGNS) | _WIDE
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUNK = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")


def _characters(text: str) -> str:
    """LaTeX for mathematical characters, and ASCII for full-width ones."""
    if text.isascii():
        return text
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda run: f"^{{{run[0].translate(_RAISED)}}}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda run: f"_{{{run[0].translate(_SUNK)}}}", text)
    return answers.tidy(text.translate(_CHARACTERS))


# Fonts, braces, letters

_FONT = re.compile(r"\\(?:mathbf|boldsymbol|bm|pmb|bf|mathit|mathsf|mathnormal)\s*\{")
_ARGUMENT = r"(\{[^{}]*\}|\\sqrt\s*(?:\{[^{}]*\}|[0-9])|\\(?!sqrt)[A-Za-z]+|[0-9A-Za-z])"
_ROOT = re.compile(r"(?<![A-Za-z])\\?sqrt\s*(\[[^][]*\])?\s*(\(|[0-9]+(?![0-9]))")
_FUNCTIONS = "arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|log|ln|exp"


def _unwrap(text: str, command: re.Pattern[str]) -> str:
    """`text` with the braces behind a command, and the command, taken away."""
    while (match := command.search(text)) is not None:
        inside = answers.braced(text, match.end())
        if inside is None:
            break
        text = f"{text[: match.start()]}{inside}{text[match.end() + len(inside) + 1 :]}"
    return text


def _braces(text: str) -> str:
    """Without braces around all of it."""
    while text.startswith("{") and answers.braced(text, 1) == text[1:-1]:
        text = text[1:-1].strip()
    return text


def _argument(argument: str) -> str:
    return argument if argument.startswith("{") else f"{{{argument}}}"


def _roots(text: str) -> str:
    """\\sqrt{17} for \\sqrt17, \\sqrt{2} for \\sqrt(2) and sqrt(2)."""
    done = ""
    while (match := _ROOT.search(text)) is not None:
        index = match[1] or ""
        if match[2] != "(":
            done += f"{text[: match.start()]}\\sqrt{index}{{{match[2]}}}"
            text = text[match.end() :]
            continue
        inside = _closed(text, match.end())
        if inside is None:
            break
        done += f"{text[: match.start()]}\\sqrt{index}{{{_roots(inside)}}}"
        text = text[match.end() + len(inside) + 1 :]
    return done + text


def _closed(text: str, first: int) -> str | None:
    """The text from `first`, behind a bracket, to the one that closes it."""
    depth = 1
    for place in range(first, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return text[first:place]
    return None


# Numbers

_REPEATS = re.compile(r"(?<![0-9.])([0-9]*)\.([0-9]*)\\(?:overline|bar|dot)\s*(?:\{([0-9]+)\}|([0-9]))(?![0-9.])")
_DOTTED = re.compile(r"(?<![0-9.])([0-9]*)\.([0-9]*)\\dot\{?([0-9])\}?([0-9]*)\\dot\{?([0-9])\}?(?![0-9.])")
_ELLIPSIS = re.compile(r"(?<![0-9.])([0-9]*)\.([0-9]{2,40})(?:\.\.\.|…|\\[lc]?dots)")
_SCIENTIFIC = re.compile(
    r"(?<![\w.\\^])([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)[eE](?:([0-9]{1,3})|\+?(-?[0-9]{2,3})|\+?(-?[0-9]))(?![\w.^])"
)
_WORDS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen".split()
    )
}
_TENS = {
    word: 10 * value
    for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)
}


def _fraction(whole: str, fixed: str, block: str) -> str:
    """The decimal whole.fixed(block)(block)... as a fraction."""
    bottom = (10 ** len(block) - 1) * 10 ** len(fixed)
    return f"\\frac{{{int(whole + fixed + block) - int((whole + fixed) or 0)}}}{{{bottom}}}"


def _recurring(text: str) -> str:
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


def _scientific(match: re.Match[str]) -> str:
    """3 \\times 10^{8} for 3e8; 3e-8 is left, which may be 3e - 8, but 1e-8 and 3.0e-8 and 3e-08 are not."""
    mantissa, unsigned, long, short = match.groups()
    if short is not None and not (mantissa == "1" or "." in mantissa):
        return match[0]
    return f"{mantissa} \\times 10^{{{int(unsigned or long or short)}}}"


def _number_words(text: str) -> str:
    """12 for "twelve", 21 for "twenty-one", where nothing else stands."""
    words = re.fullmatch(r"(?:\\text\{)?\s*([A-Za-z]+)(?:[- ]([A-Za-z]+))?\s*\}?", text)
    if words is None:
        return text
    first, second = words[1].lower(), (words[2] or "").lower()
    if first in _TENS and (not second or 0 < _WORDS.get(second, 0) < 10):
        return str(_TENS[first] + _WORDS.get(second, 0))
    return str(_WORDS[first]) if first in _WORDS and not second else text


def _list_of_numbers(text: str) -> str:
    """2; 500 for "2, 500": a comma and a space part two numbers, a comma alone parts thousands."""
    return text if re.search(r"[(\[{]", text) else re.sub(r"(?<=[0-9]), +(?=[0-9]{3}(?![0-9]))", ";", text)


# Money

_MONEY = {"usd": "\\$", "us dollars": "\\$", "rs": "₹", "inr": "₹", "rupees": "₹", "rupee": "₹", "eur": "€",
          "euro": "€", "euros": "€", "gbp": "£", "jpy": "¥", "yen": "¥", "₹": "₹", "us$": "\\$"}  # fmt: skip
_NAMES = "|".join(re.escape(name) for name in sorted(_MONEY, key=len, reverse=True))
_BEFORE = re.compile(rf"(?i)(?:\\(?:text|mathrm)\{{\s*)?({_NAMES})\.?\s*\}}?\s*(?=[0-9.\\])")
_AFTER = re.compile(rf"(?i)([0-9][0-9,.]*)\s*(?:\\(?:text|mathrm)\{{\s*)?({_NAMES})\.?\s*\}}?")


def _money(text: str) -> str:
    """The sign of a currency before the number, for its name before or behind it."""
    text = re.sub(r"\\pounds(?![A-Za-z])\s*", "£", text)
    if (before := _BEFORE.match(text)) is not None:
        return _MONEY[before[1].lower()] + text[before.end() :]
    after = _AFTER.fullmatch(text)
    return _MONEY[after[2].lower()] + after[1] if after else text


# Sets

_OPERATORS = {"<": "<", ">": ">", "\\lt": "<", "\\gt": ">", "\\le": "<=", "\\leq": "<=", "\\leqslant": "<=",
              "\\ge": ">=", "\\geq": ">=", "\\geqslant": ">=", "<=": "<=", ">=": ">="}  # fmt: skip
_OPERATOR = re.compile(r"(\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![A-Za-z])|[<>]=?)")
_OR = re.compile(r"\\text\{\s*,?\s*or\s*\}|\\(?:lor|vee|cup)(?![A-Za-z])|(?<![A-Za-z\\])or(?![A-Za-z])")
_BUILDER = re.compile(
    r"\\\{\s*([A-Za-z])\s*(?:\\in\s*(?:\\mathbb\{?R\}?|\\R|\\mathbf\{R\}))?\s*(?:\\mid|\||:|\\vert|\\colon)(.+)\\\}"
)


def intervals(text: str, name: str | None = None) -> str | None:
    """The interval, or union of intervals, that inequalities in one variable describe; None for anything else.

    a < x < b, x >= a, and such joined by "or". `name`: the variable, if it is known.
    """
    found = []
    for part in _OR.split(text):
        terms = [term.strip() for term in _OPERATOR.split(part.strip(" ,"))]
        sides, signs = terms[::2], [_OPERATORS[term] for term in terms[1::2]]
        at = 1 if len(sides) == 3 else 0 if re.fullmatch("[A-Za-z]", sides[0]) else 1
        if len(signs) not in (1, 2) or not re.fullmatch(name or "[A-Za-z]", sides[at]) or not all(sides):
            return None
        name = sides[at]
        if any("," in side or re.search(rf"(?<![\\A-Za-z]){name}(?![A-Za-z])", side) for side in sides if side != name):
            return None
        low, high = "(-\\infty", "\\infty)"
        for left, sign, right in zip(sides, signs, sides[1:], strict=False):
            variable_first = left == name
            bound, closed = (right if variable_first else left), "=" in sign
            if variable_first == (sign[0] == "<"):
                high = bound + ("]" if closed else ")")
            else:
                low = ("[" if closed else "(") + bound
        if len(signs) == 2 and ("infty" in low or "infty)" in high) and signs[0][0] != signs[1][0]:
            return None
        found.append(f"{low},{high}")
    return "\\cup ".join(found)


def _set_builder(text: str) -> str:
    """The intervals of a set in set-builder notation; what stands behind its bar if that is no inequality."""
    match = _BUILDER.fullmatch(text)
    if match is None or not (_OPERATOR.search(match[2]) or "=" in match[2]):
        return text
    return intervals(match[2], match[1]) or match[2].strip()


def _plus_minus(text: str) -> str:
    """Both values of each part that has one \\pm, and each \\mp with the other sign."""
    if "\\pm" not in text or "\\ne" in text:
        return text
    parts = []
    for part in _split(text):
        if len(re.findall(r"\\pm(?![A-Za-z])", part)) == 1:
            for plus, minus in ("+-", "-+"):
                one = re.sub(r"\\mp(?![A-Za-z])\s*", minus, re.sub(r"\\pm(?![A-Za-z])\s*", plus, part))
                parts.append(re.sub(r"(^|[(\[{=,]) *\+", r"\1", one.strip()))
        else:
            parts.append(part)
    return ",".join(parts)


_ANGLES = re.compile(r"\\langle\s*(.+?)\s*\\rangle|<([^<>]*,[^<>]*)>")


def _angles(text: str) -> str:
    """(1,2) for a vector in angle brackets."""
    match = _ANGLES.fullmatch(text)
    inside = (match[1] or match[2]) if match else ""
    return f"({inside})" if "," in inside and "angle" not in inside else text


RULES = (
    Rule("whole responses", "Math-Verify issue 44; T1's \\boxed; R1's <answer>", _marked),
    Rule("characters", "Unicode; Math-Verify issue 69", _characters),
    Rule("answer phrase", "lm-evaluation-harness", _phrase),
    Rule("fonts", "LaTeX; Math-Verify issues 37, 76", lambda text: _unwrap(text, _FONT)),
    Rule("switches and phantoms", "LaTeX", _sub(
        r"\\(?:displaystyle|textstyle|limits|bf|it|rm(?! [a-z]{2}))(?![A-Za-z])\s*|\\[vh]?phantom\s*(?:\{[^{}]*\}|[-+=0-9])",
        "")),
    Rule("outer braces", "LaTeX", _braces),
    Rule("constants e and i", "ISO 80000-2: upright", _sub(
        r"\\(?:mathrm|operatorname|rm)\s*\{\s*([ei])\s*\}|\\(?:imath)(?![A-Za-z])", lambda m: m[1] or "i")),
    Rule("leading equals sign", "Qwen2.5-Math's parser", _sub(r"\A=\s*", "")),
    Rule("limits as subscripts", "LaTeX", _sub(
        r"_\s*(?:\{\s*(?:\\(?:text|mathrm|operatorname)\{)?\s*\\?(max|min)\s*\}?\s*\}|\\(max|min)(?![A-Za-z]))",
        lambda m: f"_{{{m[1] or m[2]}}}")),
    Rule("segments", "geometry: a line over letters", _sub(r"\\overline\s*\{\s*([A-Z]{2,})\s*\}", r"\1")),
    Rule("powers of programs", "Python, SymPy", _sub(r"(?<=[\w)}])\s*\*\*\s*(?=[\w({\-])", "^")),
    Rule("pi of programs", "Python, SymPy; Math-Verify issue 69", _sub(
        r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi ")),
    Rule("roots", "TeX, SymPy; Math-Verify issues 29, 41", _roots),
    Rule("arguments of fractions", "TeX: the next two tokens", _sub(
        rf"\\frac\s*{_ARGUMENT}\s*{_ARGUMENT}", lambda m: f"\\frac{_argument(m[1])}{_argument(m[2])}")),
    Rule("arguments of functions", "TeX; not Math-Verify's unit t", _sub(
        rf"\\({_FUNCTIONS})\s*(\^\s*(?:\{{[^{{}}]*\}}|[0-9]))?\s+([a-z])(?=\s*(?:$|[-+=,)}}]))",
        lambda m: f"\\{m[1]}{m[2] or ''}({m[3]})")),
    Rule("functions of programs", "Python, SymPy", _sub(
        rf"(?<![A-Za-z\\])({_FUNCTIONS})(?=\s*\()", r"\\\1")),
    Rule("recurring decimals", "Math-Verify and lm-evaluation-harness read them cut off", _recurring),
    Rule("scientific notation", "C, Python, JSON; Minerva's golds", lambda text: _SCIENTIFIC.sub(_scientific, text)),
    Rule("decimals of complex numbers", "Math-Verify issue 69", _sub(
        r"(?<=[0-9])\.0+(?=\s*i(?![A-Za-z]))|(?<=[0-9])\.0+(?=\s*[-+].*i\Z)", "")),
    Rule("imaginary unit", "Math-Verify: real unless i stands alone", _sub(r"(?<=[0-9)}])i(?![A-Za-z])", " i")),
    Rule("thousands", "SI: a thin space", _sub(
        r"\A(-?[1-9][0-9]{0,2})((?: [0-9]{3})+)(?![0-9])(?=\.?[0-9]*\Z)", lambda m: m[1] + m[2].replace(" ", ""))),
    Rule("lists of numbers", "English: comma and space", _list_of_numbers),
    Rule("money", "ISO 4217; Qwen2.5-Math's parser", _money),
    Rule("remarks", "units and things counted, in brackets", _remark),
    Rule("number words", "GSM8K, MATH", _number_words),
    Rule("angle brackets", "LaTeX: vectors", _angles),
    Rule("set-builder notation", "mathematics", _set_builder),
    Rule("plus or minus", "Math-Verify reads no \\pm beside i", _plus_minus),
)  # fmt: skip
