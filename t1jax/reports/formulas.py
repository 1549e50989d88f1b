# SPDX-License-Identifier: Apache-2.0
"""Prose with LaTeX as HTML: formulas and boxes become MathML, which browsers draw by themselves; all else is escaped.

latex2mathml translates, and copies parts of its input without escaping them. A text comes from a model, so what it
gives is parsed, and kept only if it has nothing but elements and attributes that draw (DRAWS, KEPT). A formula that is
refused or that cannot be translated is shown as it was written.
Source: MathML Core, https://www.w3.org/TR/mathml-core/.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from latex2mathml import converter

from t1jax.reports.page import escape, visible
from t1jax.rewards import answers

NAMESPACE = "http://www.w3.org/1998/Math/MathML"
LONGEST = 600  # characters of a formula that is translated
DEEPEST = 30  # open braces at a time
DRAWS = frozenset(
    "math mfrac mi mn mo mover mpadded mphantom mroot mrow mspace msqrt mstyle msub msubsup msup mtable mtd mtext mtr "
    "munder munderover".split()
)
PARTS = {"mfrac": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "mroot": 2, "msubsup": 3, "munderover": 3}
KEPT = frozenset(
    "accent display displaystyle fence linethickness mathvariant maxsize minsize movablelimits scriptlevel stretchy "
    "width".split()
)
FORMULA = re.compile(
    r"\\\((?P<a>.+?)\\\)|\\\[(?P<b>.+?)\\\]|\$\$(?P<c>.+?)\$\$"
    r"|(?<![\\$\w])\$(?=[^\s$])(?P<d>[^$\n]*?[^\s$\\])\$(?![$\w])",
    re.DOTALL,
)
BLOCKS = ("b", "c")
TAG = re.compile(r"</?think>")
ALIGNED = re.compile(r"(?<={)aligned(?=})")  # which latex2mathml does not know
MATHS = re.compile(r"[\\^_]")


def prose(text: str) -> str:
    """`text` as HTML: formulas, boxes and tags of thinking are marked, the rest is shown as it stands."""
    marks: list[tuple[int, int, str]] = []  # (start, end, HTML)
    for match in FORMULA.finditer(text):
        name = match.lastgroup or ""
        drawn = formula(match[name], block=name in BLOCKS)
        if drawn is not None:
            marks.append((*match.span(), drawn))
    for first, last, content in answers.boxes(text):
        if not content.strip():  # of an instruction to answer in a box
            continue
        inner = formula(content) if MATHS.search(content) else None
        marks.append((first, last, f'<span class="mark box">{inner or escape(content)}</span>'))
    marks += [(*tag.span(), f'<span class="tag">{escape(tag[0])}</span>') for tag in TAG.finditer(text)]
    shown, place = [], 0
    for first, last, drawn in sorted(marks, key=lambda mark: (mark[0], -mark[1])):
        if first >= place:  # not inside of another
            shown += [escape(text[place:first]), drawn]
            place = last
    return "".join(shown) + escape(text[place:])


def formula(latex: str, block: bool = False) -> str | None:
    """A formula, without its delimiters, as a <math> element; None if it cannot be drawn."""
    if len(latex) > LONGEST or visible(latex) != latex or _depth(latex) > DEEPEST:
        return None
    try:
        text = converter.convert(ALIGNED.sub("align*", latex.strip()), display="block" if block else "inline")
        root = ElementTree.fromstring(text)
    except (
        Exception
    ):  # whatever a text that is no LaTeX leads it to: ValueError, StopIteration, RecursionError, its own
        return None
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{NAMESPACE}}}")
        unknown = "\\" in (element.text or "")  # a command that it does not know
        boxed = element.tag == "menclose" and element.get("notation") == "box"
        if boxed:  # MathML Core has no frames
            element.tag = "mrow"
        if element.tag not in DRAWS or unknown or len(element) != PARTS.get(element.tag, len(element)):
            return None
        kept = {name: value for name, value in element.attrib.items() if name in KEPT}
        element.attrib = {"class": "mark box"} if boxed else kept
    return ElementTree.tostring(root, encoding="unicode")


def _depth(latex: str) -> int:
    deepest = depth = 0
    for character in latex:
        depth += (character == "{") - (character == "}")
        deepest = max(deepest, depth)
    return deepest
