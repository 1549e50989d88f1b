# SPDX-License-Identifier: Apache-2.0
"""A capital in a name such as `tokens_BT` means the same in every file: what the legend of docs/architecture.md says.

A letter that is not in the legend is explained in the file's `Axes:`, alike in all files that use it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from t1jax.model import attention

ROOT = Path(__file__).parent.parent
LEGEND = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").partition("## Legend")[2]
MEANINGS = dict(re.findall(r"\| ([A-Z]) \| ([^|]+) (?=\|)", LEGEND))
LETTERS = set(MEANINGS)
FILES = sorted((ROOT / "t1jax").rglob("*.py"))
NUMERICS = [p for p in FILES if p.parent.name in ("model", "update", "rollouts", "prompts", "training")]


def axes(source: str) -> str:
    """What the module docstring says after `Axes:`."""
    docstring = ast.get_docstring(ast.parse(source)) or ""
    return " ".join(re.split(r"Source:|Deliberately not here:", docstring.partition("Axes:")[2])[0].split())


def explained(source: str) -> dict[str, str]:
    """The capitals that `Axes:` explains in words, as in `M lanes of a shard`; not `B = P * R`."""
    return dict(re.findall(r"(?<!\* )(?<!\*)\b([A-Z]) ([a-z][^,;.]*)", axes(source)))


def words(meaning: str) -> set[str]:
    """The words of a meaning, in the singular."""
    return {word.removesuffix("s") for word in re.findall(r"[a-z]{4,}", meaning.lower())}


def unlisted(source: str) -> set[str]:
    """Capital letters of array names that the source's docstring does not list."""
    used = set("".join(re.findall(r"\b[a-z][a-z0-9_]*_([A-Z]{1,8})\b", source)))
    return used - set(re.findall(r"\b[A-Z]\b", axes(source)))


def unexplained(source: str) -> set[str]:
    """Capital letters of array names that neither the legend nor the source's docstring explains."""
    return unlisted(source) - LETTERS


def redefined(source: str) -> set[str]:
    """Capitals that the legend has and the source's docstring explains without a word of the legend's."""
    return {x for x, meaning in explained(source).items() if x in LETTERS and not words(meaning) & words(MEANINGS[x])}


def test_the_legend_is_found():
    assert {"B", "T", "V"} <= LETTERS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_axis_letters_are_explained(path):
    assert unexplained(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_letter_means_what_the_legend_says(path):
    assert redefined(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("path", NUMERICS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_of_the_numerics_lists_the_letters_it_uses(path):
    assert unlisted(path.read_text(encoding="utf-8")) == set()


def test_a_letter_that_is_not_in_the_legend_has_one_meaning():
    meanings: dict[str, set[str]] = {}
    for path in FILES:
        for letter, meaning in explained(path.read_text(encoding="utf-8")).items():
            if letter not in LETTERS:
                assert meanings.setdefault(letter, words(meaning)) & words(meaning), (letter, path)


def test_a_letter_with_a_second_meaning_is_seen():
    assert redefined('"""A file.\n\nAxes: G lanes per prompt, N query heads, B = P * R rows.\n"""\n') == {"G"}
    assert redefined('"""A file.\n\nAxes: X groups of lanes, with M lanes.\n"""\n') == {"X"}


def test_an_unexplained_letter_is_seen():
    assert unexplained('"""A file."""\nscores_BU = 0\n') == {"U"}
    assert unexplained('"""A file.\n\nAxes: U users.\n"""\nscores_BU = 0\n') == set()


def test_arrays_whose_letters_disagree_are_refused_by_name():
    """As in all calls of the numerics in tests: conftest.py wraps their functions."""
    with pytest.raises(AssertionError, match="attention.mask: parent_BT, where {'B': 2, 'T': 3}"):
        attention.mask(jnp.ones((2, 3), jnp.int32), jnp.ones((2, 4), jnp.int32))
    with pytest.raises(AssertionError, match=r"policy_loss: .*_"):
        shapes.check("policy_loss", {"x_BT": np.zeros((2, 3)), "advantage_B": np.zeros(3)})
    with pytest.raises(AssertionError, match="x_BT"):
        shapes.check("policy_loss", {"x_BT": np.zeros(2)})
    shapes.check("policy_loss", {"x_BT": np.zeros((2, 3)), "advantage_B": np.zeros(2), "key": 3})
