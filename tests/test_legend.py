# SPDX-License-Identifier: Apache-2.0
"""Every axis letter in a name such as `tokens_BT` is in the legend of docs/architecture.md or in the file's `Axes:`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEGEND = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").partition("## Legend")[2]
LETTERS = set(re.findall(r"\| ([A-Z]) (?=\|)", LEGEND))
FILES = sorted((ROOT / "t1jax").rglob("*.py"))


def unexplained(source: str) -> set[str]:
    """Capital letters of array names that neither the legend nor the source's docstring explains."""
    used = set("".join(re.findall(r"\b[a-z][a-z0-9_]*_([A-Z]{1,8})\b", source)))
    docstring = ast.get_docstring(ast.parse(source)) or ""
    axes = re.split(r"Source:|Deliberately not here:", docstring.partition("Axes:")[2])[0]
    return used - LETTERS - set(re.findall(r"\b[A-Z]\b", axes))


def test_the_legend_is_found():
    assert {"B", "T", "V"} <= LETTERS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_axis_letters_are_explained(path):
    assert unexplained(path.read_text(encoding="utf-8")) == set()


def test_an_unexplained_letter_is_seen():
    assert unexplained('"""A file."""\nscores_BU = 0\n') == {"U"}
    assert unexplained('"""A file.\n\nAxes: U users.\n"""\nscores_BU = 0\n') == set()
