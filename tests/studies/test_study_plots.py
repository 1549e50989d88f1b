# SPDX-License-Identifier: Apache-2.0
"""Every line of a study's plot has its 95 % interval, and lies inside of its axes."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

from t1jax.reports import plots as house
from t1jax.studies import plots


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn from now on."""
    figures, canvas = [], house.canvas

    @contextmanager
    def seen(*arguments):
        with canvas(*arguments) as (figure, output):
            figures.append(figure)
            yield figure, output

    monkeypatch.setattr(house, "canvas", seen)
    return figures


def over_seeds(*values):
    mean = float(np.mean(values))
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05, "values": list(values)}


def run(*marks):
    return {"marks": [{"kl_start": kl, "accuracy": accuracy} for kl, accuracy in marks]}


def test_accuracy_against_kl_has_an_interval_of_both_at_each_mark(drawn):
    """Three seeds: Student's 4.303 s / sqrt(3), with s = 0.02 of the accuracies and 0.1 of the KL at the second."""
    trials = {
        "one": [run((0, 0.3), (1.9, 0.50)), run((0, 0.3), (2.0, 0.52)), run((0, 0.3), (2.1, 0.54))],
        "other": [run((0, 0.3), (1, 0.99)), run((0, 0.3), (1, 0.9)), run((0, 0.3), (1, 1.0))],
    }
    arms = {arm: {"accuracy": over_seeds(0.5, 0.6, 0.7)} for arm in trials}
    assert plots.draw("penalties", "accuracy", trials, {"title": "T", "arms": arms}).startswith(b"\x89PNG")
    ax = drawn[0].axes[-1]
    (_, _, (sideways, upright)), (_, _, (_, other)) = [lines.lines for lines in ax.containers]
    half = 4.303 * np.array([0.1, 0.02]) / np.sqrt(3)
    np.testing.assert_allclose(sideways.get_segments()[1], [[2 - half[0], 0.52], [2 + half[0], 0.52]], rtol=1e-3)
    np.testing.assert_allclose(upright.get_segments()[1], [[2, 0.52 - half[1]], [2, 0.52 + half[1]]], rtol=1e-3)
    np.testing.assert_allclose(other.get_segments()[1][1], [1, 1.0])  # no accuracy is above 1
    bottom, top = ax.get_ylim()
    assert all(bottom < y < top for lines in (upright, other) for segment in lines.get_segments() for _, y in segment)


def test_many_arms_are_rows_from_the_top_without_lines_over_rl(drawn):
    values = [(i / 20, 2.0 + i) for i in range(12)]  # more than colours
    arms = {f"arm {i}": {"accuracy": over_seeds(a, a), "kl_start": over_seeds(kl)} for i, (a, kl) in enumerate(values)}
    plots.draw("choices", "kl_start", {}, {"title": "T", "arms": arms})
    left, right = drawn[0].axes
    assert [label.get_text() for label in left.get_yticklabels()] == list(arms)
    assert left.get_ylim()[0] > 11 and left.get_ylim()[1] < 0
    for i, ax in enumerate((left, right)):
        dots = [line for line in ax.lines if line.get_marker() == "o"]
        assert [list(line.get_ydata()) for line in dots] == [[row] * (2 - i) for row in range(12)]
    assert list(right.lines[0].get_xdata()) == [2.0]
    assert left.xaxis.get_major_formatter()(0.5, 0) == "50 %"


def test_one_seed_has_no_interval_and_is_drawn(drawn):
    arms = {"one": {"accuracy": {"mean": 0.5, "low": None, "high": None, "values": [0.5]}}}
    plots.draw("penalties", "accuracy", {"one": [run((0, 0.3), (2.0, 0.5))]}, {"title": "T", "arms": arms})
    ((_, _, bars),) = [lines.lines for lines in drawn[0].axes[-1].containers]
    assert bars == ()


def test_every_line_of_the_thinking_has_a_band_within_0_and_1_and_is_inside_of_its_axes(drawn):
    marks = [
        {
            "step": step,
            "scaling": [{"budget": b, "mean": at, "low": at - 0.1, "high": at + 0.1} for b in (8, 32, 128)],
            "votes": [{"tokens": 30.0 * k, "mean": at, "low": at - 0.1, "high": at + 0.1} for k in (1, 2, 4)],
        }
        for step, at in ((0, 0.0), (10, 0.5), (20, 1.0))
    ]
    plots.draw("inference_scaling", "accuracy", {}, {"title": "T", "thinking": marks})
    for ax in drawn[0].axes:
        assert len(ax.collections) == len(ax.lines) == 3
        for band in ax.collections:
            ys = band.get_paths()[0].vertices[:, 1]
            assert 0 <= ys.min() < ys.max() <= 1
        bottom, top = ax.get_ylim()
        assert bottom < 0 and top > 1
