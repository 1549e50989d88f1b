# SPDX-License-Identifier: Apache-2.0
"""Lists, sets, intervals and vectors as people write them, as LaTeX: rules of notation.py's table.

Where: rollouts -> rewards; host only. Deliberately not here: whether two sets are equal (worker.py).
"""

from __future__ import annotations

import re


def parts(text: str, separator: str = ",") -> list[str]:
    """The parts of `text` between the separators that stand in no bracket."""
    parts, depth, start = [], 0, 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == separator and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]


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


def set_builder(text: str) -> str:
    """The intervals of a set in set-builder notation; what stands behind its bar if that is no inequality."""
    match = _BUILDER.fullmatch(text)
    if match is None or not (_OPERATOR.search(match[2]) or "=" in match[2]):
        return text
    return intervals(match[2], match[1]) or match[2].strip()


def plus_minus(text: str) -> str:
    """Both values of each part that has one \\pm, and each \\mp with the other sign."""
    if "\\pm" not in text or "\\ne" in text:
        return text
    found = []
    for part in parts(text):
        if len(re.findall(r"\\pm(?![A-Za-z])", part)) == 1:
            for plus, minus in ("+-", "-+"):
                one = re.sub(r"\\mp(?![A-Za-z])\s*", minus, re.sub(r"\\pm(?![A-Za-z])\s*", plus, part))
                found.append(re.sub(r"(^|[(\[{=,]) *\+", r"\1", one.strip()))
        else:
            found.append(part)
    return ",".join(found)


_ANGLES = re.compile(r"\\langle\s*(.+?)\s*\\rangle|<([^<>]*,[^<>]*)>")


def angle_brackets(text: str) -> str:
    """(1,2) for a vector in angle brackets."""
    match = _ANGLES.fullmatch(text)
    inside = (match[1] or match[2]) if match else ""
    return f"({inside})" if "," in inside and "angle" not in inside else text
