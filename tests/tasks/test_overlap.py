# SPDX-License-Identifier: Apache-2.0
"""The same problem set differently is the same; a problem with another number in it is not."""

from __future__ import annotations

import pytest

from t1jax.tasks.files.overlap import Known, normalise


@pytest.mark.parametrize(
    "one, other",
    [
        ("Find $x$.", "  find\n$x$.\t"),  # case and spaces
        ("Find $x + 1$", "Find $x+1$"),
        ("Find $x$", "Find \\(x\\)"),
        ("Find\n\\[x = 2.\\]Then", "Find $$x=2.$$ then"),
        ("$\\frac{1}{2}$", "$\\dfrac{1}{2}$"),
        ("$\\frac{1}{2}$", "$\\tfrac{1}{2}$"),
        ("$\\left( a \\right)$", "$(a)$"),
        ("$\\left. a \\right|$", "$a|$"),
        ("$a,\\ b,\\quad c,\\qquad d\\;e$", "$a, b, c, d e$"),
        ("$1,\\!000$", "$1,000$"),
        ("$\\displaystyle x$", "$x$"),
        ("ﬁnd Ｘ", "find x"),  # NFKC: a ligature, a full-width letter
        ("a\u00a0b\u2009c", "a b c"),
        ("cafe\u0301", "caf\u00e9"),
        ("STRASSE", "straße"),
        ("costs $\\$20$ or 50\\%", "costs \\$20 or $50$%"),
        ("20{,}000", "20,000"),
        ("the $9$-kilometer walk ~~ home", "the 9-kilometer walk home"),
    ],
)
def test_what_only_sets_the_text_does_not_matter(one, other):
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    "one, other",
    [
        ("Sort 1 23", "Sort 12 3"),
        ("Sort 1 2", "Sort 12"),
        ("$x^2$", "$x^3$"),
        ("$x+1$", "$x-1$"),
        ("$(a,b)$", "$[a,b]$"),
        ("$\\leftarrow$", "$arrow$"),
        ("$\\rightarrow$", "$arrow$"),
        ("$\\frac12$", "$\\binom12$"),
        ("$a \\quadrant$", "$a rant$"),
        ("$a < b$", "$a > b$"),
        ("$1.5$", "$15$"),
        ("$x_1$", "$x1$"),
        ("a b", "ab"),
    ],
)
def test_what_is_said_matters(one, other):
    assert normalise(one) != normalise(other)


def test_normalising_twice_changes_nothing():
    for text in ("Let \\[f(x) = \\left\\{ a \\right.\\] \\, x~y", "$\\! \\! \\dfrac { 1 } 2$", "  "):
        assert normalise(normalise(text)) == normalise(text)
    assert normalise(" \n$ $ \\, ") == ""


LONG = "Find the largest $n$ such that $n^2 < 1000$."
KNOWN = Known([LONG, "What is $1+1$?"])


def test_known_texts_are_found_however_they_are_set():
    assert KNOWN.same("FIND the largest \\(n\\) such that $n^2<1000$.")
    assert not KNOWN.same("Find the largest $n$ such that $n^2 < 1001$.")
    assert not KNOWN.same(f"{LONG} Think step by step.")
    assert not Known([]).same("") and not Known([]).inside(LONG)


def test_a_known_text_is_found_inside_another():
    assert KNOWN.inside(LONG) and KNOWN.inside(f"Solve this:\n{LONG}\nBox the answer.")
    assert KNOWN.inside(f"{LONG[:30]} {LONG}")
    assert not KNOWN.inside(LONG[:-6]) and not KNOWN.inside("")


def test_a_very_short_text_must_be_all_of_it():
    """Else "what is 1+1?" would make a held-out problem of every text that happens to hold it."""
    assert KNOWN.inside("what is $1 + 1$?")
    assert not KNOWN.inside("Bob knows nothing. What is $1+1$? he asks. And what is $2+2$?")
