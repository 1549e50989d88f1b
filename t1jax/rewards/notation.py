# SPDX-License-Identifier: Apache-2.0
"""One notation for answers: rewrites what people, programs and papers write as LaTeX that math-verify parses correctly.

    rewrite("2*sqrt(3)/3") == "2*\\sqrt{3}/3"      rewrite("0.\\overline{36}") == "\\frac{36}{99}"

rollouts -> REWARDS, after comparing text and numbers (answers.py), before algebra (worker.py); host only.
RULES is an ordered table: each rule is a convention with its source, never a special case, and is applied to answer and
gold alike. docs/answers.md prints the table. A rule leaves everything else unchanged. Texts are short: the verifier
passes at most 1,500 characters.
Deliberately not here: rules that need answer and gold together (pairing.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from t1jax.rewards import answers, numerals, sets


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
    text = _WORD.sub(lambda word: word[0].casefold(), text)
    return re.sub(r"\{(\w)\}", r"\1", _ANY_SPACE.sub("", text)).rstrip(".,;")


_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_ANY_SPACE = re.compile(r"(?<!\\)\\[,;:! ]|(?<!\\)\\q?quad(?![A-Za-z])|~|\s+")


def _sub(pattern: str, new: str | Callable[[re.Match[str]], str]) -> Callable[[str], str]:
    compiled = re.compile(pattern)
    return lambda text: compiled.sub(new, text)


# Texts around an answer

_PHRASE = re.compile(r"(?i)(?:so |thus |hence )?(?:the |my )?(?:final |correct )?answer(?: is|:)[: ]*(.+)")
_REMARK = re.compile(r"(.*[0-9}]) ?\((?!(?:or|and|not|mod)\b)[A-Za-z]{2,}(?: [A-Za-z]+){0,3}\)")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


def _marked(text: str) -> str:
    """What stands in the boxes or the <answer> of a whole response; boxes that are not one answer stay."""
    marks = len(answers.boxes(text))
    if marks or "<answer>" in text:
        found = answers.final_answer(text)
        if found is not None and (marks < 2 or len(sets.parts(found)) >= marks):
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


_UNIT = re.compile(
    r"(?<=[\w)}\]])\s*(\\(?:text|textrm|textnormal|mathrm|mbox)\s*\{(?!\s*,?\s*(?:and|or)\b)[^{}0-9]*\}"
    r"(?:\s*\^\s*(?:\{[23]\}|[23]))?+)(\s*(?:[,;]|\\text\s*\{\s*,?\s*(?:and|or)\b|(?:and|or)\b))?"
    r"(?!\s*(?:\Z|\^|[/.]?\s*\\(?:text|textrm|textnormal|mathrm|mbox|cdot)(?![a-z])))"  # not km s^{-1}
)


def _units_inside(text: str) -> str:
    """5, 6 for 5\\text{ cm}, 6: words before the next of several values, and known units before anything."""
    return _UNIT.sub(lambda m: m[2] or (" " if answers.unit(m[1].strip()) else m[0]), text)


# Characters

_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_SIGNS = {
    "π": "\\pi ", "∞": "\\infty ", "×": "\\times ", "÷": "\\div ", "·": "\\cdot ", "⋅": "\\cdot ", "±": "\\pm ",
    "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "∈": "\\in ", "∪": "\\cup ", "∩": "\\cap ", "√": "\\sqrt ",
    "½": "\\frac{1}{2}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}", "⅓": "\\frac{1}{3}", "⅔": "\\frac{2}{3}",
    "ℝ": "\\mathbb{R}", "θ": "\\theta ", "\u2013": "-", "\u2009": " ", "\u202f": " ", "∣": "|",
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


RULES = (
    Rule("whole responses", "Math-Verify issue 44; T1's \\boxed; R1's <answer>", _marked),
    Rule("characters", "Unicode; Math-Verify issue 69", _characters),
    Rule("answer phrase", "lm-evaluation-harness", _phrase),
    Rule("fonts", "LaTeX; Math-Verify issues 37, 76", lambda text: _unwrap(text, _FONT)),
    Rule("switches and phantoms", "LaTeX", _sub(
        r"\\(?:displaystyle|textstyle|limits|bf|it|rm(?! [a-z]{2}))(?![A-Za-z])\s*"
        r"|\\[vh]?phantom\s*(?:\{[^{}]*\}|[-+=0-9])",
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
    Rule("recurring decimals", "Math-Verify and lm-evaluation-harness read them cut off", numerals.recurring),
    Rule("scientific notation", "C, Python, JSON; Minerva's golds", numerals.scientific),
    Rule("decimals of complex numbers", "Math-Verify issue 69", _sub(
        r"(?<=[0-9])\.0+(?=\s*i(?![A-Za-z]))|(?<=[0-9])\.0+(?=\s*[-+].*i\Z)", "")),
    Rule("imaginary unit", "Math-Verify: real unless i stands alone", _sub(r"(?<=[0-9)}])i(?![A-Za-z])", " i")),
    Rule("thousands", "SI: a thin space", _sub(
        r"\A(-?[1-9][0-9]{0,2})((?: [0-9]{3})+)(?![0-9])(?=\.?[0-9]*\Z)", lambda m: m[1] + m[2].replace(" ", ""))),
    Rule("lists of numbers", "English: comma and space", numerals.list_of_numbers),
    Rule("units in lists", "Math-Verify cuts a text off at a unit inside", _units_inside),
    Rule("money", "ISO 4217; Qwen2.5-Math's parser", numerals.money),
    Rule("remarks", "units and things counted, in brackets", _remark),
    Rule("number words", "GSM8K, MATH", numerals.number_words),
    Rule("angle brackets", "LaTeX: vectors", sets.angle_brackets),
    Rule("set-builder notation", "mathematics", sets.set_builder),
    Rule("plus or minus", "Math-Verify reads no \\pm beside i", sets.plus_minus),
)  # fmt: skip
