# SPDX-License-Identifier: Apache-2.0
"""The shapes of the paper's figures: the authors' curves have each, made curves that lack one are found out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from t1jax.studies import paper, shapes

FIGURE = list(paper.SCALING.values())
BEFORE, SOME, MORE, ALL = [0.2, 0.21, 0.2], [0.3, 0.32, 0.35], [0.29, 0.38, 0.45], [0.3, 0.45, 0.6]
MADE = [BEFORE, SOME, MORE, ALL]


def test_the_papers_own_curves_by_hand():
    """Points of Figure 1: the last curve rises by 22.1."""
    assert math.isclose(shapes.flat_before(FIGURE), 0.25 * 0.221 - 0.030)
    assert math.isclose(shapes.equal_at_smallest(FIGURE), 0.25 * 0.221 - 0.017)
    assert math.isclose(
        shapes.fans_out(FIGURE), 0.023
    )  # 90 to 100 % of RL: 2.3 at the largest budget, -0.6 at the smallest
    assert math.isclose(shapes.ordered_at_end(list(paper.RESPONSES.values())), 0.036)
    assert [len(curve) for curve in FIGURE] == [len(paper.BUDGETS)] * 5
    assert [len(curve) for curve in paper.RESPONSES.values()] == [len(paper.STEPS)] * 3


def test_made_curves_have_every_shape():
    assert min(shapes.flat_before(MADE), shapes.equal_at_smallest(MADE), shapes.fans_out(MADE)) > 0


VIOLATIONS = {
    "a rise before RL": ("flat_before", [[0.2, 0.25, 0.3], SOME, MORE, ALL]),
    "a hump before RL": ("flat_before", [[0.2, 0.3, 0.2], SOME, MORE, ALL]),
    "a fall before RL": ("flat_before", [[0.3, 0.2, 0.2], SOME, MORE, ALL]),
    "flat before RL, and after it": ("flat_before", [[0.2, 0.2, 0.2], [0.3, 0.3, 0.3], [0.5, 0.5, 0.5]]),
    "apart at the smallest budget": ("equal_at_smallest", [BEFORE, [0.2, 0.3, 0.35], MORE, ALL]),
    "equal at the smallest, but no rise": ("equal_at_smallest", [BEFORE, [0.3, 0.3, 0.3], [0.3, 0.3, 0.3]]),
    "parallel": ("fans_out", [BEFORE, [0.3, 0.4, 0.5], [0.4, 0.5, 0.6], [0.5, 0.6, 0.7]]),
    "closing": ("fans_out", [BEFORE, [0.2, 0.4, 0.6], [0.4, 0.5, 0.62]]),
    "less after more RL": ("fans_out", [BEFORE, SOME, ALL, MORE]),
    "wider, but lower at both ends": ("fans_out", [BEFORE, [0.4, 0.4, 0.5], [0.1, 0.2, 0.4]]),
}


@pytest.mark.parametrize("shape, curves", VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_violation_is_found(shape, curves):
    assert getattr(shapes, shape)(curves) <= 1e-12


def test_where_the_margin_ends():
    """A rise of 0.3 after RL allows 0.075."""
    for height, held in ((0.074, True), (0.076, False)):
        assert (shapes.flat_before([[0.2, 0.2 + height, 0.2], SOME, ALL]) > 0) is held
        assert (shapes.equal_at_smallest([BEFORE, [0.3 - height, 0.3, 0.3], ALL]) > 0) is held


def test_before_rl_counts_for_flatness_alone():
    for other in ([0.9, 0.1, 0.5], [0.0, 0.0, 0.0]):
        assert shapes.equal_at_smallest([other, *MADE[1:]]) == shapes.equal_at_smallest(MADE)
        assert shapes.fans_out([other, *MADE[1:]]) == shapes.fans_out(MADE)


def test_too_few_curves_are_refused():
    for shape in (shapes.equal_at_smallest, shapes.fans_out):
        with pytest.raises(ValueError, match="got 2 curves, expected one before RL and at least two"):
            shape([BEFORE, ALL])


@pytest.mark.parametrize(
    "ends, margin",
    [
        ((0.3, 0.4, 0.6), 0.1),
        ((0.3, 0.55, 0.6), 0.05),
        ((0.45, 0.4, 0.6), -0.05),  # the fewest are not lowest
        ((0.3, 0.65, 0.6), -0.05),  # the most are not highest
        ((0.6, 0.4, 0.3), -0.3),
        ((0.4, 0.4, 0.6), 0.0),
    ],
)
def test_order_at_the_end(ends, margin):
    assert math.isclose(shapes.ordered_at_end([[0.9, end] for end in ends]), margin, abs_tol=1e-12)


@pytest.mark.parametrize(
    "one, other, expected",
    [
        ([0, 1, 2], [0, 2, 1], [15.0]),  # equal at the start; the difference goes from 1 to -1
        ([0, 0, 0], [3, -1, 1], [7.5, 15.0]),
        ([0, 0, 0], [1, 0, 1], []),  # they touch
        ([0, 0, 0], [1, 0, -1], [10]),
        ([0, 0, 0], [-1, 0, 0], []),
        ([0, 0, 0], [0, 0, 0], []),
        ([0, 0, 0], [1, 2, 3], []),
    ],
)
def test_crossings_by_hand(one, other, expected):
    assert shapes.crossings([0, 10, 20], one, other) == expected
    assert shapes.crossings([0, 10, 20], other, one) == expected


def test_crossings_are_where_the_sign_changes_on_a_fine_grid():
    for seed in range(50):
        random = np.random.default_rng(seed)
        at = np.cumsum(random.integers(1, 9, size=7))
        one, other = random.normal(size=(2, 7))
        grid = np.linspace(at[0], at[-1], 100_001)
        sign = np.sign(np.interp(grid, at, one) - np.interp(grid, at, other))
        expected = grid[1:][sign[1:] != sign[:-1]]
        np.testing.assert_allclose(shapes.crossings(list(at), list(one), list(other)), expected, atol=1e-3)
